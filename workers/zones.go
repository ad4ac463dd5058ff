// Package workers knows every implementation: which kind serves which contract, in which zone, with
// which options. Nothing else does, and nothing registers itself.
//
// A zone's constructor takes just the clients that the zone may hold; what is missing is a compile
// error. Every worker of a queue registers the same set.
package workers

import (
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"

	"castellan.dev/activities"
	"castellan.dev/activities/issue/stepca"
	"castellan.dev/activities/record"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/rotate/tlscert"
	"castellan.dev/activities/store"
	"castellan.dev/internal/config"
	"castellan.dev/internal/servicedb"
	"castellan.dev/internal/state"
	"castellan.dev/workflows/rotation"
)

// Settings are what every worker has in common.
type Settings struct {
	Engine       client.Client
	Interceptors []interceptor.WorkerInterceptor // codec policy, tracing
	Deployment   worker.DeploymentOptions        // zero in development: workers are unversioned
	StopTimeout  time.Duration                   // how long a stopping worker lets activities finish; zero: 20s
}

// options returns the worker options of a zone. Slots are few where the credentials are strong: a
// small number is a safety feature.
func (s Settings) options(slots int) worker.Options {
	stop := s.StopTimeout
	if stop == 0 {
		stop = 20 * time.Second
	}
	return worker.Options{
		Interceptors:                       s.Interceptors,
		DeploymentOptions:                  s.Deployment,
		WorkerStopTimeout:                  stop,
		MaxConcurrentActivityExecutionSize: slots,
		DisableRegistrationAliasing:        true,
	}
}

// Slots per worker.
const (
	privilegedSlots = 32
	observeSlots    = 128
	recordSlots     = 16
)

// Control serves the workflows. It holds no credential for any target.
func Control(s Settings) worker.Worker {
	options := s.options(1)
	w := worker.New(s.Engine, activities.Control.Queue(""), options)
	rotation.Register(w)
	return w
}

// PrivilegedParts are what the privileged zone holds.
type PrivilegedParts struct {
	Config   *config.Config
	Store    store.Store
	Recorder record.Recorder
	Embedded *stepca.Config // the embedded authority, where castellan-dev runs; nil elsewhere
	Memory   string         // directory in which reloads remember what they did
	Now      func() time.Time
}

// Privileged serves the steps that change targets. A host narrows it to the targets of that host; an
// empty host serves those that are not bound to one.
func Privileged(s Settings, parts PrivilegedParts, host string) (worker.Worker, error) {
	steps, err := NewSteps(parts, host)
	if err != nil {
		return nil, err
	}
	options := s.options(privilegedSlots)
	options.DisableWorkflowWorker = true
	w := worker.New(s.Engine, activities.Privileged.Queue(host), options)
	RegisterSteps(w, steps)
	return w, nil
}

// RegisterSteps serves every privileged activity.
func RegisterSteps(w worker.ActivityRegistry, steps *rotate.Steps) {
	activities.Open.Register(w, steps.Open)
	activities.Mint.Register(w, steps.Mint)
	activities.SetStep.Register(w, steps.Set)
	activities.Test.Register(w, steps.Test)
	activities.Publish.Register(w, steps.Publish)
	activities.Retire.Register(w, steps.Retire)
	activities.Prove.Register(w, steps.Prove)
	activities.Rollback.Register(w, steps.Rollback)
	activities.End.Register(w, steps.End)
}

// NewSteps builds the saga's privileged steps for the targets of one host. Rescue uses it without an
// engine. AnyHost serves all targets, for a process that holds every zone.
func NewSteps(parts PrivilegedParts, host string) (*rotate.Steps, error) {
	holder, err := newHolder(parts, host)
	if err != nil {
		return nil, err
	}
	return rotate.New(rotate.Dependencies{
		Store:     parts.Store,
		Recorder:  parts.Recorder,
		Kinds:     map[string]rotate.Kind{tlscert.Name: tlscert.New(parts.Store, holder.certificate, parts.Now)},
		Targets:   holder.target,
		Elsewhere: holder.elsewhere,
		Decide:    holder.decide,
		NextDue:   holder.next,
		Now:       parts.Now,
	}), nil
}

// EmbeddedIssuer says how the embedded authority is asked for certificates.
func EmbeddedIssuer(ca state.CA) *stepca.Config {
	return &stepca.Config{URL: ca.URL, Root: ca.Root, Provisioner: ca.Provisioner, PasswordFile: ca.PasswordFile}
}

// AnyHost stands for every host.
const AnyHost = "*"

// ObserveParts are what the observe zone holds: read-only access.
type ObserveParts struct {
	Config   *config.Config
	Recorder record.Recorder
	Embedded *stepca.Config // only its public root is used
	Now      func() time.Time
}

// Observe serves the steps that look at consumers.
func Observe(s Settings, parts ObserveParts) (worker.Worker, error) {
	watcher, err := NewWatcher(parts)
	if err != nil {
		return nil, err
	}
	options := s.options(observeSlots)
	options.DisableWorkflowWorker = true
	w := worker.New(s.Engine, activities.Observe.Queue(""), options)
	RegisterWatcher(w, watcher)
	return w, nil
}

// RegisterWatcher serves every activity of the observe zone.
func RegisterWatcher(w worker.ActivityRegistry, watcher *rotate.Watcher) {
	activities.Converge.Register(w, watcher.Converge)
}

// Record serves the activities on the service database. It runs inside `castellan serve`.
func Record(s Settings, database *servicedb.DB, host func(target string) (string, bool), now func() time.Time) worker.Worker {
	options := s.options(recordSlots)
	options.DisableWorkflowWorker = true
	w := worker.New(s.Engine, activities.Record.Queue(""), options)
	RegisterInventory(w, inventory{database: database, host: host, now: now})
	return w
}

// RegisterInventory serves every activity of the record zone.
func RegisterInventory(w worker.ActivityRegistry, i inventory) {
	activities.Sweep.Register(w, i.sweep)
	activities.Succeeded.Register(w, i.succeeded)
	activities.Hold.Register(w, i.hold)
}
