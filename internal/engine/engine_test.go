package engine

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
	"castellan.dev/internal/identity"
)

// house is an engine with its authority, as castellan-dev wires them.
type house struct {
	dir       string
	authority *identity.Authority
	engine    *Engine
}

func openHouse(t testing.TB, dir string, change ...func(*Config)) *house {
	t.Helper()
	h, err := newHouse(t.Context(), dir, change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.engine.Stop(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func newHouse(ctx context.Context, dir string, change ...func(*Config)) (*house, error) {
	authority, err := identity.OpenAuthority(identity.AuthorityConfig{Dir: filepath.Join(dir, "identity")})
	if err != nil {
		return nil, err
	}
	h := &house{dir: dir, authority: authority}
	source, err := h.source(ctx, identity.Engine)
	if err != nil {
		return nil, err
	}
	config := Config{Dir: filepath.Join(dir, "engine"), Identity: source}
	for _, f := range change {
		f(&config)
	}
	h.engine, err = Start(ctx, config)
	return h, err
}

func (h *house) source(ctx context.Context, name string) (*identity.Source, error) {
	return identity.NewSource(ctx, identity.SourceConfig{Name: name, Renewer: h.authority.Renewer(name)})
}

func (h *house) dial(t testing.TB, name string) client.Client {
	t.Helper()
	source, err := h.source(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.engine.Dial(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func greet(_ context.Context, name string) (string, error) { return "hello " + name, nil }

func greeting(ctx workflow.Context, name string) (string, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: activities.Observe.Queue(""), StartToCloseTimeout: 10 * time.Second,
	})
	var result string
	err := workflow.ExecuteActivity(ctx, "test.greet", name).Get(ctx, &result)
	return result, err
}

func work(t testing.TB, c client.Client, queue string) {
	t.Helper()
	w := worker.New(c, queue, worker.Options{DisableWorkflowWorker: queue != activities.Control.Queue("")})
	if queue == activities.Control.Queue("") {
		w.RegisterWorkflowWithOptions(greeting, workflow.RegisterOptions{Name: "test.greeting"})
	} else {
		w.RegisterActivityWithOptions(greet, activity.RegisterOptions{Name: "test.greet"})
	}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
}

func TestWorkflowRunsAcrossZonesUnderTheirIdentities(t *testing.T) {
	h := openHouse(t, t.TempDir(), func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	work(t, h.dial(t, "control"), activities.Control.Queue(""))
	work(t, h.dial(t, "observe"), activities.Observe.Queue(""))
	operator := h.dial(t, identity.Operator)
	for i := range 3 {
		run, err := operator.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
			ID: fmt.Sprintf("greeting/%d", i), TaskQueue: activities.Control.Queue(""),
		}, "test.greeting", "castellan")
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := run.Get(t.Context(), &got); err != nil {
			t.Fatal(err)
		}
		if want := "hello castellan"; got != want {
			t.Errorf("workflow returned %q, want %q", got, want)
		}
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(line []byte) (int, error) {
	w.t.Logf("%s", line)
	return len(line), nil
}
