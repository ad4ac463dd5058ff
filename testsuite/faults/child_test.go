package faults

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/rotate/tlscert"
	"castellan.dev/internal/config"
	"castellan.dev/internal/dev"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/state"
	"castellan.dev/workers"

	"go.temporal.io/sdk/worker"
)

// The roles that the test binary plays when it is started again.
const (
	roleVariable = "CASTELLAN_FAULTS_ROLE"
	roleDev      = "dev"
	roleWorker   = "worker"
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case roleDev:
		err = runDev()
	case roleWorker:
		err = runWorker()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func childContext() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM)
}

// runDev is castellan-dev without the privileged zone.
func runDev() error {
	ctx, stop := childContext()
	defer stop()
	cfg, problems := config.Load(os.Getenv("FAULTS_CONFIG"))
	if err := problems.Err(); err != nil {
		return err
	}
	var ports dev.Ports
	if _, err := fmt.Sscan(os.Getenv("FAULTS_PORTS"), &ports.Engine, &ports.API, &ports.Web, &ports.CA); err != nil {
		return err
	}
	process, err := dev.Start(ctx, dev.Options{
		State: state.Dir(os.Getenv("FAULTS_STATE")), Config: cfg, Ports: ports, Now: time.Now,
		Zones:  []activities.Zone{activities.Control, activities.Observe},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	return process.Run(ctx)
}

// runWorker is `castellan worker --zone privileged --host H` with a gate around the kind.
func runWorker() error {
	ctx, stop := childContext()
	defer stop()
	host := os.Getenv("FAULTS_HOST")
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	i, err := installation.Open(os.Getenv("FAULTS_CONFIG"), state.Dir(os.Getenv("FAULTS_STATE")), logger)
	if err != nil {
		return err
	}
	if shift := os.Getenv("FAULTS_CLOCK"); shift != "" {
		by, err := time.ParseDuration(shift)
		if err != nil {
			return err
		}
		i.Now = func() time.Time { return time.Now().Add(by) }
	}
	name := "privileged/" + host
	identities := *i
	identities.Now = time.Now // castellan's own connections are not what the clock fault is about
	engine, _, err := identities.Engine(ctx, name)
	if err != nil {
		return err
	}
	recorder, err := identities.Recorder(ctx, name)
	if err != nil {
		return err
	}
	secrets, err := i.Store()
	if err != nil {
		return err
	}
	embedded := i.Embedded()
	if url := os.Getenv("FAULTS_ISSUER"); url != "" {
		embedded.URL = url
	}
	steps, err := workers.NewSteps(workers.PrivilegedParts{
		Config: i.Config, Store: secrets, Recorder: recorder, Embedded: embedded, Memory: i.Dir.Memory(), Now: i.Now,
	}, host)
	if err != nil {
		return err
	}
	steps.Kinds[tlscert.Name] = gate{Kind: steps.Kinds[tlscert.Name], at: os.Getenv("FAULTS_AT"), dir: os.Getenv("FAULTS_DIR")}
	w := worker.New(engine, activities.Privileged.Queue(host), worker.Options{DisableWorkflowWorker: true, DisableRegistrationAliasing: true})
	workers.RegisterSteps(w, steps)
	if err := w.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("FAULTS_DIR"), fmt.Sprintf("ready-%d", os.Getpid())), nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	w.Stop()
	return nil
}

// gate wraps a kind. At "publish:before" it says so in a file and waits until another file lets it go;
// at "publish:twice" it does the step twice; likewise for the other steps.
type gate struct {
	rotate.Kind
	at  string
	dir string
}

// around runs a step with what is asked for.
func around[T any](g gate, step string, act func() (T, error)) (T, error) {
	held := g.stop(step + ":before")
	result, err := act()
	if g.at == step+":twice" {
		result, err = act()
	}
	g.stop(step + ":after")
	if held {
		text := "ok"
		if err != nil {
			text = string(activities.KindOf(err)) + ": " + err.Error()
		}
		_ = os.WriteFile(filepath.Join(g.dir, "outcome"), []byte(text), 0o600) // read by the zombie cases only
	}
	return result, err
}

// stop blocks at the place that was asked for, once, and reports whether it did.
func (g gate) stop(place string) bool {
	if g.at != place {
		return false
	}
	reached := filepath.Join(g.dir, "reached")
	if _, err := os.Stat(reached); err == nil {
		return false
	}
	if err := os.WriteFile(reached, []byte(place), 0o600); err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(g.dir, "go")); err == nil {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (g gate) Observe(ctx context.Context, target string) (rotate.Observation, error) {
	return around(g, "open", func() (rotate.Observation, error) { return g.Kind.Observe(ctx, target) })
}

func (g gate) Mint(ctx context.Context, r rotate.Rotation) (activities.Candidate, error) {
	return around(g, "mint", func() (activities.Candidate, error) { return g.Kind.Mint(ctx, r) })
}

func (g gate) Set(ctx context.Context, r rotate.Rotation) (activities.Candidate, error) {
	return around(g, "set", func() (activities.Candidate, error) { return g.Kind.Set(ctx, r) })
}

func (g gate) Test(ctx context.Context, r rotate.Rotation) (activities.Proof, error) {
	return around(g, "test", func() (activities.Proof, error) { return g.Kind.Test(ctx, r) })
}

func (g gate) Publish(ctx context.Context, r rotate.Rotation, deliveries []string) (activities.Proof, error) {
	return around(g, "publish", func() (activities.Proof, error) { return g.Kind.Publish(ctx, r, deliveries) })
}

func (g gate) Restore(ctx context.Context, r rotate.Rotation, under activities.Epoch, deliveries []string) (activities.Proof, error) {
	return around(g, "rollback", func() (activities.Proof, error) { return g.Kind.Restore(ctx, r, under, deliveries) })
}

func (g gate) Retire(ctx context.Context, r rotate.Rotation) (activities.Proof, error) {
	return around(g, "retire", func() (activities.Proof, error) { return g.Kind.Retire(ctx, r) })
}

func (g gate) ProveDead(ctx context.Context, r rotate.Rotation) (activities.DeathResult, error) {
	return around(g, "prove", func() (activities.DeathResult, error) { return g.Kind.ProveDead(ctx, r) })
}
