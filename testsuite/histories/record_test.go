package histories

import (
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"

	"castellan.dev/activities"
	"castellan.dev/internal/engine"
	"castellan.dev/internal/identity"
	"castellan.dev/workflows/rotation"
)

var release = flag.String("record", "", "record histories that are missing under this release, such as v0.2")

// scenario drives one run to its end.
type scenario struct {
	trigger activities.Trigger
	drive   func(t *testing.T, c client.Client, id string)
}

func tell(name string, argument any) func(*testing.T, client.Client, string) {
	return func(t *testing.T, c client.Client, id string) {
		t.Helper()
		if err := c.SignalWorkflow(t.Context(), id, "", name, argument); err != nil {
			t.Fatal(err)
		}
	}
}

func update(name string) func(*testing.T, client.Client, string) {
	return func(t *testing.T, c client.Client, id string) {
		t.Helper()
		handle, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{
			WorkflowID: id, UpdateName: name, Args: []any{rotation.Request{Actor: "ann", Reason: "test"}}, WaitForStage: client.WorkflowUpdateStageCompleted,
		})
		if err == nil {
			err = handle.Get(t.Context(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// state waits until the run's state is as wanted.
func state(holds func(rotation.State) bool) func(*testing.T, client.Client, string) {
	return func(t *testing.T, c client.Client, id string) {
		t.Helper()
		var seen rotation.State
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			value, err := c.QueryWorkflow(t.Context(), id, "", rotation.QueryState)
			if err == nil && value.Get(&seen) == nil && holds(seen) {
				return
			}
		}
		t.Fatalf("%s: waited in vain; last seen %+v", id, seen)
	}
}

func inOrder(steps ...func(*testing.T, client.Client, string)) func(*testing.T, client.Client, string) {
	return func(t *testing.T, c client.Client, id string) {
		for _, step := range steps {
			step(t, c, id)
		}
	}
}

// scenarios are the notable paths, by the name of their target.
func scenarios() map[string]scenario {
	waiting := state(func(s rotation.State) bool { return s.Waiting == "window" })
	late := state(func(s rotation.State) bool { return len(s.Stragglers) > 0 })
	long := tell(rotation.Resume, rotation.Request{Reason: strings.Repeat("padding ", 110_000)})
	return map[string]scenario{
		"happy": {}, "two-waves": {}, "straggler": {}, "rolled-back": {}, "discarded": {}, "quarantined": {}, "superseded": {}, "not-due": {}, "unknown": {},
		"compromise":     {trigger: activities.Trigger{Compromise: true, Now: true}},
		"until-tested":   {trigger: activities.Trigger{Until: activities.Tested}},
		"window-skipped": {drive: inOrder(waiting, update(rotation.SkipWindow))},
		"window-now":     {drive: inOrder(waiting, tell(rotation.RotateNow, nil))},
		"window-aborted": {drive: inOrder(waiting, update(rotation.Abort))},
		"window-paused": {drive: inOrder(waiting, tell(rotation.Pause, "lunch"), tell(rotation.Pause, nil),
			state(func(s rotation.State) bool { return s.Paused != nil && s.Note != "" }), update(rotation.SkipWindow), update(rotation.Resume))},
		"window-cancelled": {drive: inOrder(waiting, func(t *testing.T, c client.Client, id string) {
			if err := c.CancelWorkflow(t.Context(), id, ""); err != nil {
				t.Fatal(err)
			}
		})},
		"aborted-late": {drive: inOrder(late, update(rotation.Abort))},
		// The server suggests to continue as new for the size of the history; the signals are ignored.
		"continued": {drive: inOrder(late, long, long, long, long, long, long)},
	}
}

// TestRecord records what is missing. Without -record it only checks that nothing is.
func TestRecord(t *testing.T) {
	known := map[string]bool{}
	for _, path := range committed(t, testdata) {
		known[strings.TrimSuffix(filepath.Base(path), ".json.gz")] = true
	}
	if *release == "" {
		for name := range scenarios() {
			if !known["rotation."+name] {
				t.Errorf("no history of %q was ever recorded", name)
			}
		}
		for _, name := range []string{"rotation.sweep", "rotation.continued-next"} {
			if !known[name] {
				t.Errorf("no history %q was ever recorded", name)
			}
		}
		return
	}
	c := startEngine(t)
	stop, err := new(script).start(c)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for name, s := range scenarios() {
		id := rotation.WorkflowID(name)
		run := begin(t, c, id, s.trigger, name)
		if s.drive != nil {
			s.drive(t, c, id)
		}
		first := run.GetRunID()
		_ = run.Get(t.Context(), nil) // some are meant to fail; the history is what counts
		save(t, "rotation."+name, fetch(t, c, id, first))
		if name == "continued" {
			if run.GetRunID() == first {
				t.Error("the run did not continue as new")
			}
			save(t, "rotation.continued-next", fetch(t, c, id, run.GetRunID()))
		}
	}
	begin(t, c, rotation.WorkflowID("busy"), activities.Trigger{}, "busy")
	sweep, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "sweep", TaskQueue: activities.Control.Queue("")}, rotation.SweepName, rotation.SweepInput{Schedule: "castellan/sweep"})
	if err != nil {
		t.Fatal(err)
	}
	if err := sweep.Get(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	save(t, "rotation.sweep", fetch(t, c, "sweep", sweep.GetRunID()))
	sum(t, testdata)
}

func begin(t *testing.T, c client.Client, id string, trigger activities.Trigger, target string) client.WorkflowRun {
	t.Helper()
	options := client.StartWorkflowOptions{ID: id, TaskQueue: activities.Control.Queue(""), TypedSearchAttributes: rotation.Attributes("certificate", target, "operator")}
	run, err := c.ExecuteWorkflow(t.Context(), options, rotation.Name, rotation.Input{Target: target, Trigger: trigger})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func startEngine(t *testing.T) client.Client {
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
	e, err := engine.Start(t.Context(), engine.Config{Dir: filepath.Join(dir, "engine"), Identity: source(identity.Engine)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Stop() })
	c, err := e.Dial(context.Background(), source(identity.Dev))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func fetch(t *testing.T, c client.Client, id, run string) *historypb.History {
	t.Helper()
	var all historypb.History
	for pages := c.GetWorkflowHistory(t.Context(), id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); pages.HasNext(); {
		event, err := pages.Next()
		if err != nil {
			t.Fatal(err)
		}
		all.Events = append(all.Events, event)
	}
	return &all
}

// save writes a history that no release has yet under this name.
func save(t *testing.T, name string, history *historypb.History) {
	t.Helper()
	path := filepath.Join(testdata, *release, name+".json.gz")
	if _, err := os.Stat(path); err == nil {
		return // committed ones stay
	}
	text, err := protojson.Marshal(history)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	writer, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("recorded %s: %d events, %d bytes", path, len(history.GetEvents()), packed.Len())
}
