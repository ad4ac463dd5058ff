package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/engine"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/keyring"
)

// path is one way from a start to its first effect, on one server.
type path struct {
	client  client.Client
	name    string
	eager   bool
	arrived *sync.Map // workflow id to chan time.Time

	toEffect, toEnd []time.Duration
}

// Queues of the paths. The reflex queue holds both workflow and activity, so that both can be eager.
const (
	decideQueue = "bench.decide"
	effectQueue = "bench.effect"
	reflexQueue = "bench.reflex"
)

// latency compares the plain path (start, then an activity on another queue) on the two servers, and
// the eager path (everything on one queue) on the tuned one.
func latency(t testing.TB) []row {
	const warm, rounds, batch = 15, 8, 15
	untuned, tuned := openEngine(t, true), openEngine(t, false)
	plain := newPath(t, untuned, "untuned", false)
	ours := newPath(t, tuned, "tuned", false)
	eager := newPath(t, tuned, "eager", true)
	for _, p := range []*path{plain, ours, eager} {
		for i := range warm {
			p.run(t, fmt.Sprintf("warm/%s/%d", p.name, i))
		}
		p.toEffect, p.toEnd = nil, nil
	}
	for round := range rounds {
		for _, p := range []*path{plain, ours, eager} {
			for i := range batch {
				p.run(t, fmt.Sprintf("run/%s/%d/%d", p.name, round, i))
			}
		}
	}
	compare := func(what string, pick func(*path) []time.Duration, p *path, q float64, aim string) row {
		a, b := quantile(pick(plain), q), quantile(pick(p), q)
		return row{what: what, baseline: millis(a), castellan: millis(b), ratio: ratio(float64(b), float64(a)), aim: aim}
	}
	effect := func(p *path) []time.Duration { return p.toEffect }
	end := func(p *path) []time.Duration { return p.toEnd }
	return []row{
		compare("start to first effect, p50, plain", effect, ours, 0.5, "<= 0.20"),
		compare("start to first effect, p50, eager", effect, eager, 0.5, "<= 0.20"),
		compare("start to first effect, p99, plain", effect, ours, 0.99, ""),
		compare("start to first effect, p99, eager", effect, eager, 0.99, ""),
		compare("start to end seen, p50, plain", end, ours, 0.5, ""),
		compare("start to end seen, p99, plain", end, ours, 0.99, ""),
		compare("start to end seen, p99, eager", end, eager, 0.99, ""),
	}
}

// openEngine starts an embedded server and returns a client that may do everything, with the codec.
func openEngine(t testing.TB, untuned bool) client.Client {
	t.Helper()
	dir := t.TempDir()
	authority, err := identity.OpenAuthority(identity.AuthorityConfig{Dir: filepath.Join(dir, "identity")})
	if err != nil {
		t.Fatal(err)
	}
	source := func(name string) *identity.Source {
		s, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: name, Renewer: authority.Renewer(name)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	e, err := engine.Start(t.Context(), engine.Config{Dir: filepath.Join(dir, "engine"), Identity: source(identity.Engine), Untuned: untuned})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	keys := filepath.Join(dir, "keyring")
	if err := keyring.Create(keys); err != nil {
		t.Fatal(err)
	}
	options := e.ClientOptions(source(identity.Dev))
	seal(t, &options, keys)
	return dial(t, options)
}

// seal puts the codec into a client's options.
func seal(t testing.TB, options *client.Options, keys string) {
	t.Helper()
	ring, err := keyring.Load(keys)
	if err != nil {
		t.Fatal(err)
	}
	sealing, err := codec.New(ring, options.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	codec.Install(options, sealing)
}

func dial(t testing.TB, options client.Options) client.Client {
	t.Helper()
	c, err := client.DialContext(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// newPath starts the workers of a path.
func newPath(t testing.TB, c client.Client, name string, eager bool) *path {
	t.Helper()
	p := &path{client: c, name: name, eager: eager, arrived: new(sync.Map)}
	arrive := func(ctx context.Context, _ activities.StepRequest) (activities.Proof, error) {
		now := time.Now()
		if waiting, ok := p.arrived.LoadAndDelete(activity.GetInfo(ctx).WorkflowExecution.ID); ok {
			waiting.(chan time.Time) <- now
		}
		return activities.Proof{At: now}, nil
	}
	effects := effectQueue
	if eager {
		effects = reflexQueue
	}
	decide := func(ctx workflow.Context, request activities.StepRequest) (activities.Proof, error) {
		var proof activities.Proof
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{TaskQueue: effects, StartToCloseTimeout: time.Minute})
		err := workflow.ExecuteActivity(ctx, "bench.arrive", request).Get(ctx, &proof)
		return proof, err
	}
	both := worker.New(c, p.queue(), worker.Options{})
	both.RegisterWorkflowWithOptions(decide, workflow.RegisterOptions{Name: "bench.decide"})
	started := []worker.Worker{both}
	if eager {
		both.RegisterActivityWithOptions(arrive, activity.RegisterOptions{Name: "bench.arrive"})
	} else {
		w := worker.New(c, effects, worker.Options{DisableWorkflowWorker: true})
		w.RegisterActivityWithOptions(arrive, activity.RegisterOptions{Name: "bench.arrive"})
		started = append(started, w)
	}
	start(t, started...)
	return p
}

func start(t testing.TB, list ...worker.Worker) {
	t.Helper()
	for _, w := range list {
		if err := w.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
	}
}

func (p *path) queue() string {
	if p.eager {
		return reflexQueue
	}
	return decideQueue
}

// run starts one workflow and waits for its end.
func (p *path) run(t testing.TB, id string) {
	t.Helper()
	arrived := make(chan time.Time, 1)
	p.arrived.Store(id, arrived)
	began := time.Now()
	run, err := p.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: p.queue(), EnableEagerStart: p.eager},
		"bench.decide", activities.StepRequest{Target: "payments", Reason: "bench"})
	if err == nil {
		err = run.Get(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.toEnd = append(p.toEnd, time.Since(began))
	p.toEffect = append(p.toEffect, (<-arrived).Sub(began))
}
