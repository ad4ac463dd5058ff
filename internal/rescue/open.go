package rescue

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/activities/rotate"
	"castellan.dev/internal/config"
	"castellan.dev/internal/installation"
	"castellan.dev/workers"
)

// Options say how to rescue.
type Options struct {
	Target   string
	Actor    string        // who does it, for the evidence
	Reason   string        // why, for the evidence
	Patience time.Duration // how long a step or a straggler is waited for
	Gone     bool          // castellan is known to be gone although something answers at the API's address
	Dry      bool          // only look: nothing is written, not even evidence
	Tell     func(Event)   // receives what happens; may be nil
}

// Event is one thing that rescue saw or did.
type Event struct {
	Step       string                 `json:"step"`
	State      activities.State       `json:"state,omitempty"`
	Sentence   string                 `json:"sentence"`
	Stragglers []activities.Straggler `json:"stragglers,omitempty"`
}

// Rescue works on one target.
type Rescue struct {
	options Options
	run     string
	target  rotate.Target
	steps   *rotate.Steps
	watcher *rotate.Watcher
	now     func() time.Time
	cleanup []func() error
}

// submitter is the identity under which rescue submits evidence.
const submitter = "rescue"

// Open opens the store, the service database and the ledger of an installation whose engine is gone.
func Open(ctx context.Context, i *installation.Installation, options Options) (_ *Rescue, err error) {
	declared, ok := i.Config.Certificates[options.Target]
	if !ok {
		return nil, activities.Errorf(activities.NotFound, "certificate %q is not in the configuration", options.Target)
	}
	if !options.Gone && !options.Dry {
		if err := refuseWhileServed(ctx, i); err != nil {
			return nil, err
		}
	}
	r := &Rescue{options: options, run: rand.Text(), now: i.Now}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	recorder, err := r.recorder(ctx, i)
	if err != nil {
		return nil, err
	}
	secrets, err := i.Store()
	if err != nil {
		return nil, err
	}
	// Only the one certificate: what is wrong with another must not stand in the way.
	only := *i.Config
	only.Certificates = map[string]config.Certificate{options.Target: declared}
	r.steps, err = workers.NewSteps(workers.PrivilegedParts{
		Config: &only, Store: secrets, Recorder: recorder, Embedded: i.Embedded(), Memory: i.Dir.Memory(), Now: i.Now,
	}, workers.AnyHost)
	if err != nil {
		return nil, err
	}
	r.target, _ = r.steps.Targets(options.Target)
	r.watcher, err = workers.NewWatcher(workers.ObserveParts{Config: &only, Recorder: recorder, Embedded: i.Embedded(), Now: i.Now})
	return r, err
}

// refuseWhileServed makes sure that rescue is alone: the ledger has one writer.
func refuseWhileServed(ctx context.Context, i *installation.Installation) error {
	text := i.Config.API.PublicURL
	if text == "" && i.Endpoints != nil {
		text = i.Endpoints.API
	}
	if text == "" {
		return nil // no API is known, so none can be in the way
	}
	address, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("read address of the API: %w", err)
	}
	dialer := net.Dialer{Timeout: 3 * time.Second}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address.Hostname(), cmp.Or(address.Port(), "443")))
	if err != nil {
		return nil
	}
	connection.Close()
	return activities.Errorf(activities.Conflict, "castellan still answers at %s, and rescue must be the only writer", address.Host)
}

// recorder opens the ledger as its one writer. A dry run records nothing.
func (r *Rescue) recorder(ctx context.Context, i *installation.Installation) (record.Recorder, error) {
	if r.options.Dry {
		return silent{}, nil
	}
	database, err := i.Database(ctx)
	if err != nil {
		return nil, fmt.Errorf("open service database, without which there is no evidence: %w", err)
	}
	r.cleanup = append(r.cleanup, database.Close)
	log, err := i.Ledger(ctx, database)
	if err != nil {
		return nil, err
	}
	r.cleanup = append(r.cleanup, func() error {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return log.Close(stop)
	})
	return log.As(submitter), nil
}

// silent is the recorder of a dry run.
type silent struct{}

// Append implements record.Recorder.
func (silent) Append(context.Context, record.Entry) (string, error) { return "dry-run", nil }

// Close closes the ledger, which signs a last checkpoint, and the database.
func (r *Rescue) Close() error {
	var problems []error
	for n := len(r.cleanup) - 1; n >= 0; n-- {
		problems = append(problems, r.cleanup[n]())
	}
	r.cleanup = nil
	return errors.Join(problems...)
}
