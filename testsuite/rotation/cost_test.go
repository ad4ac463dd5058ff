package rotation

import (
	"testing"

	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"

	"castellan.dev/internal/api"
	"castellan.dev/workflows/rotation"
)

// What a rotation without stragglers may cost.
const (
	maxEvents  = 60
	maxActions = 12
)

// history reads the events of a run through a client.
func history(t testing.TB, c client.Client, target, run string) []*historypb.HistoryEvent {
	t.Helper()
	var events []*historypb.HistoryEvent
	for pages := c.GetWorkflowHistory(t.Context(), rotation.WorkflowID(target), run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); pages.HasNext(); {
		event, err := pages.Next()
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, event)
	}
	return events
}

// actions counts what Temporal Cloud bills: starts, attempts of activities, timers, messages, upserts,
// markers, and two for each child. Heartbeats and queries leave no event; the steps send no heartbeat
// unless an attempt takes seconds.
func actions(events []*historypb.HistoryEvent) int {
	count := 0
	for _, event := range events {
		switch event.GetEventType() {
		case enums.EVENT_TYPE_ACTIVITY_TASK_STARTED:
			count += int(event.GetActivityTaskStartedEventAttributes().GetAttempt())
		case enums.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
			count += 2
		case enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, enums.EVENT_TYPE_TIMER_STARTED,
			enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
			enums.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES, enums.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
			enums.EVENT_TYPE_MARKER_RECORDED, enums.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
			count++
		}
	}
	return count
}

func count(events []*historypb.HistoryEvent, kind enums.EventType) int {
	found := 0
	for _, event := range events {
		if event.GetEventType() == kind {
			found++
		}
	}
	return found
}

func testCost(t *testing.T, h *house) {
	run := h.rotate(t, "cost", api.RotateRequest{Reason: "count"})
	h.end(t, "cost", run, "RETIRED")
	events := history(t, h.engine, "cost", run)
	billed := actions(events)
	t.Logf("a rotation without stragglers: %d history events, %d billable actions", len(events), billed)
	if len(events) > maxEvents {
		t.Errorf("got %d history events, want at most %d", len(events), maxEvents)
	}
	if billed > maxActions {
		t.Errorf("got %d billable actions, want at most %d", billed, maxActions)
	}
	if steps := count(events, enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED); billed <= steps {
		t.Errorf("counted %d actions for %d activities and a start: the count misses something", billed, steps)
	}
}

// testStragglerCost is the control of the count: waiting costs, so a run that waits must count more.
func testStragglerCost(t *testing.T, h *house) {
	plain := h.rotate(t, "late", api.RotateRequest{})
	h.end(t, "late", plain, "RETIRED")
	late := h.certificates["late"].server
	late.become(straggles)
	run := h.rotate(t, "late", api.RotateRequest{})
	live := h.until(t, "late", run, "a named straggler", func(l api.Live) bool { return len(l.Stragglers) > 0 })
	missing := live.Stragglers[0]
	if missing.Consumer != "late" || missing.Address != late.address() || missing.Standing != "previous" || missing.Serves == "" || missing.Since.IsZero() {
		t.Errorf("straggler: got %+v, want the address, what it serves and since when", missing)
	}
	if _, err := h.api.Tell(t.Context(), "late", rotation.Pause, "wait"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.Tell(t.Context(), "late", rotation.Resume, "go"); err != nil {
		t.Fatal(err)
	}
	late.become(reloads)
	h.end(t, "late", run, "RETIRED")
	with, without := actions(history(t, h.engine, "late", run)), actions(history(t, h.engine, "late", plain))
	if with < without+3 {
		t.Errorf("got %d actions with a straggler and two updates, %d without: want at least three more", with, without)
	}
}
