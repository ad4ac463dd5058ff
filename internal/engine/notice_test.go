package engine

import (
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	enumsspb "go.temporal.io/server/api/enums/v1"
	historyspb "go.temporal.io/server/api/history/v1"
	"go.temporal.io/server/common/clock"
	"go.temporal.io/server/common/definition"
	"go.temporal.io/server/common/metrics"
	"go.temporal.io/server/common/namespace"
	"go.temporal.io/server/service/history/events"
)

// The reason for the short long poll in settings: of two notices in quick succession the server
// loses the second, which may be the one that says that the workflow ended. When this test fails
// the server has been mended and the setting can go.
func TestServerLosesTheSecondOfTwoNotices(t *testing.T) {
	notifier := events.NewNotifier(clock.NewRealTimeSource(), metrics.NoopMetricsHandler, func(namespace.ID, string) int32 { return 1 })
	execution := &commonpb.WorkflowExecution{WorkflowId: "w", RunId: "r"}
	_, notices, err := notifier.WatchHistoryEvent(definition.NewWorkflowKey("n", "w", "r"))
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := notifier.WatchHistoryEvent(definition.NewWorkflowKey("n", "other", "r"))
	if err != nil {
		t.Fatal(err)
	}
	notify := func(execution *commonpb.WorkflowExecution, next int64, status enumspb.WorkflowExecutionStatus) {
		notifier.NotifyNewHistoryEvent(events.NewNotification("n", execution, 1, 1, next, 1, enumsspb.WORKFLOW_EXECUTION_STATE_RUNNING, status, &historyspb.VersionHistories{}, nil))
	}
	notify(execution, 9, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)
	notify(execution, 11, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	notify(&commonpb.WorkflowExecution{WorkflowId: "other", RunId: "r"}, 1, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)
	notifier.Start()
	defer notifier.Stop()
	select {
	case <-other: // notices are handled in order, so both of ours were
	case <-time.After(time.Minute):
		t.Fatal("the notifier does not run")
	}
	if got, want := len(notices), 1; got != want {
		t.Fatalf("%d notices arrived, want %d", got, want)
	}
	if got := (<-notices).WorkflowStatus; got != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		t.Errorf("the notice that arrived says %v: the last one is kept now", got)
	}
}
