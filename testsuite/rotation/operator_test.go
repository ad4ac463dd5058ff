package rotation

import (
	"fmt"
	"strings"
	"testing"

	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/sdk/client"

	enums "go.temporal.io/api/enums/v1"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/workflows/rotation"
)

// waiting starts a rotation that is due but outside its window, and waits until it waits.
func (h *house) waiting(t testing.TB, target string, start func() string) string {
	t.Helper()
	run := start()
	var live api.Live
	eventually(t, target+" waiting for its window", func() (string, bool) {
		var err error
		if live, err = h.api.Live(t.Context(), target, run); err != nil {
			return err.Error(), false
		}
		if live.Result != nil && live.Result.State == activities.NotDue { // it became valid a moment ago
			run = start()
			return "not due yet", false
		}
		return fmt.Sprintf("%+v", live), live.Waiting == "window"
	})
	return run
}

// scheduled starts a rotation that respects windows, through the interface.
func (h *house) scheduled(t testing.TB, target string) func() string {
	return func() string { return h.rotate(t, target, api.RotateRequest{Scheduled: true, Reason: "by plan"}) }
}

func testWindow(t *testing.T, h *house) {
	run := h.waiting(t, "window", h.scheduled(t, "window"))
	before := len(history(t, h.engine, "window", run))
	if _, err := h.api.Tell(t.Context(), "window", rotation.Resume, ""); err == nil || !strings.Contains(err.Error(), "is not paused") {
		t.Errorf("resume without pause: got %v, want a refusal that says why", err)
	}
	events := history(t, h.engine, "window", run)
	if len(events) != before || count(events, enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED) != 0 {
		t.Errorf("a rejected update changed the history from %d to %d events", before, len(events))
	}
	state, err := h.api.Tell(t.Context(), "window", rotation.SkipWindow, "cannot wait")
	if err != nil {
		t.Fatal(err)
	}
	if !state.Trigger.Anytime {
		t.Errorf("skip-window answered %+v, want a trigger for any time", state.Trigger)
	}
	h.end(t, "window", run, activities.Retired)
	if got := count(history(t, h.engine, "window", run), enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED); got != 1 {
		t.Errorf("got %d accepted updates in the history, want the one that was accepted", got)
	}

	run = h.waiting(t, "window", h.scheduled(t, "window"))
	if _, err := h.api.Tell(t.Context(), "window", rotation.Abort, "not this week"); err != nil {
		t.Fatal(err)
	}
	given := h.end(t, "window", run, activities.NotDue)
	if given.Result.Rotation != "" || !strings.Contains(given.Result.Sentence, "not this week") {
		t.Errorf("after an abort while waiting: got %+v, want no rotation and the reason", given.Result)
	}

	run = h.waiting(t, "window", h.scheduled(t, "window"))
	if _, err := h.api.Tell(t.Context(), "window", rotation.RotateNow, "incident"); err != nil {
		t.Fatal(err)
	}
	now := h.end(t, "window", run, activities.Retired)
	if now.Trigger.Actor != "operator" || now.Trigger.Reason != "incident" || !now.Trigger.Now {
		t.Errorf("trigger: got %+v, want the operator's", now.Trigger)
	}
}

// testPlainMessages signals, queries and updates as any SDK does that knows nothing of castellan.
func testPlainMessages(t *testing.T, h *house) {
	id := rotation.WorkflowID("plain")
	run := h.waiting(t, "plain", h.scheduled(t, "plain"))
	signal := func(name string, argument any) {
		t.Helper()
		if err := h.plain.SignalWorkflow(t.Context(), id, run, name, argument); err != nil {
			t.Fatal(err)
		}
	}
	signal(rotation.Pause, map[string]string{"actor": "ann", "reason": "audit"})
	live := h.until(t, "plain", run, "the pause", func(l api.Live) bool { return l.Paused != nil })
	if live.Paused.Actor != "ann" || live.Paused.Reason != "audit" {
		t.Errorf("paused: got %+v, want by ann for the audit", live.Paused)
	}
	signal(rotation.Resume, nil)
	h.until(t, "plain", run, "the resumption", func(l api.Live) bool { return l.Paused == nil })
	signal(rotation.Pause, 42)
	h.until(t, "plain", run, "the note that the signal is ignored", func(l api.Live) bool { return strings.Contains(l.Note, "neither text nor") })

	value, err := h.engine.QueryWorkflow(t.Context(), id, run, "__temporal_workflow_metadata")
	if err != nil {
		t.Fatal(err)
	}
	var metadata sdkpb.WorkflowMetadata
	if err := value.Get(&metadata); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(metadata.GetCurrentDetails(), "ignored: ") || !strings.Contains(metadata.GetCurrentDetails(), "**plain** PLANNED") {
		t.Errorf("current details: got %q, want the state and the ignored signal", metadata.GetCurrentDetails())
	}
	if _, err := h.plain.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{
		WorkflowID: id, RunID: run, UpdateName: rotation.SkipWindow, Args: []any{map[string]string{"actor": "ann"}},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	}); err != nil {
		t.Fatal(err)
	}
	h.end(t, "plain", run, activities.Retired)

	// What starts a workflow must be sealed: a plain input from a stranger to the keyring is refused.
	started, err := h.plain.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: activities.Control.Queue("")}, rotation.Name, rotation.Input{Trigger: activities.Trigger{Now: true}})
	if err != nil {
		t.Fatal(err)
	}
	refused := h.until(t, "plain", started.GetRunID(), "end", func(l api.Live) bool { return l.Status != "running" })
	if refused.Status != "failed" {
		t.Errorf("a plain input: got %+v, want a failed run", refused)
	}
}
