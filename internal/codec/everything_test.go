package codec_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"castellan.dev/testsuite/leak"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// everything sends one canary through every kind of message that Temporal stores or carries.
type everything struct{ canaries map[string]leak.Canary }

// kinds names the places; each gets a canary of its own.
var kinds = []string{
	"workflow input", "workflow result", "signal", "external signal", "query argument", "query result",
	"update argument", "update result", "update refusal", "activity input", "activity result",
	"local activity result", "activity failure message", "activity failure cause", "activity failure details",
	"activity panic", "heartbeat", "activity summary", "timer summary", "static summary", "static details",
	"current details", "side effect", "mutable side effect", "child input", "child result", "child failure",
	"continue as new input", "schedule argument", "workflow failure",
}

func newEverything() *everything {
	e := &everything{canaries: map[string]leak.Canary{}}
	for _, kind := range kinds {
		e.canaries[kind] = leak.Random(kind)
	}
	return e
}

// of returns the canary of a kind; it panics for a kind that is not listed.
func (e *everything) of(kind string) string {
	canary, ok := e.canaries[kind]
	if !ok {
		panic("no canary for " + kind)
	}
	return string(canary.Value.Reveal())
}

func (e *everything) all() []leak.Canary {
	var all []leak.Canary
	for _, kind := range kinds {
		all = append(all, e.canaries[kind])
	}
	return all
}

func (e *everything) register(r worker.Registry) {
	for name, fn := range map[string]any{"parent": e.parent, "child": e.child, "scheduled": e.scheduled} {
		r.RegisterWorkflowWithOptions(fn, workflow.RegisterOptions{Name: name})
	}
	for name, fn := range map[string]any{"act": e.act, "fail": e.fail, "panic": e.panic} {
		r.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
}

func (e *everything) act(ctx context.Context, input string) (string, error) {
	activity.RecordHeartbeat(ctx, e.of("heartbeat"))
	return e.of("activity result"), nil
}

func (e *everything) fail(ctx context.Context) error {
	return temporal.NewApplicationErrorWithOptions(e.of("activity failure message"), "castellan.failed", temporal.ApplicationErrorOptions{
		NonRetryable: true, Cause: fmt.Errorf("cause: %w", errors.New(e.of("activity failure cause"))), Details: []any{e.of("activity failure details")},
	})
}

func (e *everything) panic(context.Context) error { panic(e.of("activity panic")) }

func (e *everything) child(ctx workflow.Context, input string) (string, error) {
	if input == "fail" {
		return "", errors.New(e.of("child failure"))
	}
	parent := workflow.GetInfo(ctx).ParentWorkflowExecution
	err := workflow.SignalExternalWorkflow(ctx, parent.ID, parent.RunID, "external signal", e.of("external signal")).Get(ctx, nil)
	return e.of("child result"), err
}

func (e *everything) scheduled(workflow.Context, string) error { return nil }

func (e *everything) parent(ctx workflow.Context, input string) (string, error) {
	if input == e.of("continue as new input") {
		return "", errors.New(e.of("workflow failure"))
	}
	err := workflow.SetQueryHandler(ctx, "query", func(argument string) (string, error) {
		if argument != e.of("query argument") {
			return "", errors.New("unexpected argument")
		}
		return e.of("query result"), nil
	})
	if err != nil {
		return "", err
	}
	err = workflow.SetUpdateHandlerWithOptions(ctx, "update", func(ctx workflow.Context, argument string) (string, error) {
		return e.of("update result"), nil
	}, workflow.UpdateHandlerOptions{Validator: func(argument string) error {
		if argument != e.of("update argument") {
			return errors.New(e.of("update refusal"))
		}
		return nil
	}})
	if err != nil {
		return "", err
	}
	workflow.SetCurrentDetails(ctx, e.of("current details"))
	if err := e.effects(ctx); err != nil {
		return "", err
	}
	for _, name := range []string{"signal", "external signal"} {
		var got string
		workflow.GetSignalChannel(ctx, name).Receive(ctx, &got)
		if got != e.of(name) {
			return "", fmt.Errorf("%s arrived altered", name)
		}
	}
	var end bool
	workflow.GetSignalChannel(ctx, "end").Receive(ctx, &end)
	if end {
		return e.of("workflow result"), nil
	}
	return "", workflow.NewContinueAsNewError(ctx, "parent", e.of("continue as new input"))
}

// effects runs everything that a workflow does by itself.
func (e *everything) effects(ctx workflow.Context) error {
	options := workflow.ActivityOptions{StartToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second,
		Summary: e.of("activity summary"), RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}}
	ctx = workflow.WithActivityOptions(ctx, options)
	var got string
	if err := workflow.ExecuteActivity(ctx, "act", e.of("activity input")).Get(ctx, &got); err != nil || got != e.of("activity result") {
		return fmt.Errorf("activity: %w", err)
	}
	local := workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: time.Minute})
	fn := func(context.Context) (string, error) { return e.of("local activity result"), nil }
	if err := workflow.ExecuteLocalActivity(local, fn).Get(ctx, &got); err != nil || got != e.of("local activity result") {
		return fmt.Errorf("local activity: %w", err)
	}
	var failure *temporal.ApplicationError
	err := workflow.ExecuteActivity(ctx, "fail").Get(ctx, nil)
	if !errors.As(err, &failure) || failure.Message() != e.of("activity failure message") || failure.Details(&got) != nil || got != e.of("activity failure details") {
		return errors.New("activity failure arrived altered")
	}
	if err := workflow.ExecuteActivity(ctx, "panic").Get(ctx, nil); err == nil {
		return errors.New("activity panic: want an error")
	}
	workflow.SideEffect(ctx, func(workflow.Context) any { return e.of("side effect") }).Get(&got)
	workflow.MutableSideEffect(ctx, "id", func(workflow.Context) any { return e.of("mutable side effect") }, func(a, b any) bool { return a == b }).Get(&got)
	workflow.GetVersion(ctx, "change", workflow.DefaultVersion, 1)
	timer := workflow.NewTimerWithOptions(ctx, time.Millisecond, workflow.TimerOptions{Summary: e.of("timer summary")})
	if err := timer.Get(ctx, nil); err != nil {
		return err
	}
	child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{})
	if err := workflow.ExecuteChildWorkflow(child, "child", e.of("child input")).Get(ctx, &got); err != nil || got != e.of("child result") {
		return fmt.Errorf("child: %w", err)
	}
	if err := workflow.ExecuteChildWorkflow(child, "child", "fail").Get(ctx, nil); err == nil {
		return errors.New("failing child: want an error")
	}
	return nil
}

// drive runs the workflow to every end and returns all histories as bytes and as JSON.
func (e *everything) drive(t *testing.T, c client.Client, queue string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	options := client.StartWorkflowOptions{TaskQueue: queue, StaticSummary: e.of("static summary"), StaticDetails: e.of("static details")}
	start := func(end bool) client.WorkflowRun {
		run, err := c.ExecuteWorkflow(ctx, options, "parent", e.of("workflow input"))
		must(t, err)
		must(t, c.SignalWorkflow(ctx, run.GetID(), "", "signal", e.of("signal")))
		handle, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: run.GetID(), UpdateName: "update",
			WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{e.of("update argument")}})
		must(t, err)
		var got string
		must(t, handle.Get(ctx, &got))
		refused, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: run.GetID(), UpdateName: "update",
			WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{"wrong"}})
		must(t, err)
		if err := refused.Get(ctx, nil); err == nil || !strings.Contains(err.Error(), e.of("update refusal")) {
			t.Error("the refusal of an update did not reach its caller")
		}
		answer, err := c.QueryWorkflow(ctx, run.GetID(), "", "query", e.of("query argument"))
		must(t, err)
		if must(t, answer.Get(&got)); got != e.of("query result") {
			t.Error("query result arrived altered")
		}
		_, err = c.QueryWorkflow(ctx, run.GetID(), "", "__temporal_workflow_metadata")
		must(t, err)
		must(t, c.SignalWorkflow(ctx, run.GetID(), "", "end", end))
		return run
	}
	var result string
	ended := start(true)
	if must(t, ended.Get(ctx, &result)); result != e.of("workflow result") {
		t.Error("workflow result arrived altered")
	}
	continued := start(false)
	if err := continued.Get(ctx, nil); err == nil || !strings.Contains(err.Error(), e.of("workflow failure")) {
		t.Error("workflow failure did not reach its caller")
	}
	schedule, err := c.ScheduleClient().Create(ctx, client.ScheduleOptions{ID: "schedule of " + queue, Paused: true, Spec: client.ScheduleSpec{},
		Action: &client.ScheduleWorkflowAction{ID: "scheduled " + queue, Workflow: "scheduled", TaskQueue: queue, Args: []any{e.of("schedule argument")}}})
	must(t, err)
	must(t, schedule.Trigger(ctx, client.ScheduleTriggerOptions{}))
	_, err = schedule.Describe(ctx)
	must(t, err)
	return histories(ctx, t, c, queue)
}

// histories exports every history of a queue.
func histories(ctx context.Context, t *testing.T, c client.Client, queue string) []byte {
	t.Helper()
	var exported []byte
	for {
		list, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("TaskQueue = %q", queue)})
		must(t, err)
		types := map[string]int{}
		open := 0
		for _, execution := range list.GetExecutions() {
			types[execution.GetType().GetName()]++
			if execution.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				open++
			}
		}
		if open > 0 || types["parent"] < 3 || types["child"] < 4 || types["scheduled"] < 1 {
			if ctx.Err() != nil {
				t.Fatalf("got %v, %d open: want three parents, four children and a scheduled run to end", types, open)
			}
			continue // visibility lags behind; polled without a pause, on a server of our own
		}
		for _, execution := range list.GetExecutions() {
			id := execution.GetExecution()
			described, err := c.DescribeWorkflowExecution(ctx, id.GetWorkflowId(), id.GetRunId())
			must(t, err)
			exported = append(exported, protojson.Format(described)...)
			events := c.GetWorkflowHistory(ctx, id.GetWorkflowId(), id.GetRunId(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
			for events.HasNext() {
				event, err := events.Next()
				must(t, err)
				raw, err := proto.Marshal(event)
				must(t, err)
				exported = append(append(exported, raw...), protojson.Format(event)...)
			}
		}
		return exported
	}
}

func TestNoMessageCarriesPlainText(t *testing.T) {
	ring, _ := newRing(t)
	c, seen := dial(t, newCodec(t, ring, server().GetDefaultNamespace()))
	e := newEverything()
	stop := work(t, c, "encrypted", e.register)
	exported := e.drive(t, c, "encrypted")
	stop()
	wire, logs := seen.contents()
	// The SDK's own log lines quote errors that activities return; castellan's logger drops that field.
	leak.Check(t, e.all(), leak.Bytes("histories", exported), leak.Bytes("wire", wire))
	t.Logf("searched %d bytes of history, %d of the wire; %d bytes of log are the logger's affair", len(exported), len(wire), len(logs))
}

func TestPlainTextWouldBeFound(t *testing.T) {
	c, seen := dial(t, nil)
	e := newEverything()
	stop := work(t, c, "plain", e.register)
	exported := e.drive(t, c, "plain")
	stop()
	wire, _ := seen.contents()
	hits, err := leak.Search(e.all(), leak.Bytes("histories and wire", append(wire, exported...)))
	must(t, err)
	found := map[string]bool{}
	for _, hit := range hits {
		found[hit.Canary] = true
	}
	for _, kind := range kinds {
		if !found[kind] {
			t.Errorf("%s: not found without the codec, so its absence with the codec proves nothing", kind)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
