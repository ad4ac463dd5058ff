package bench

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/proto"

	"castellan.dev/activities"
	"castellan.dev/workflows/rotation"
)

// The bare workflow has the shape of a rotation - one workflow queue, and its steps over two activity
// queues in a rotation's order - and its steps do nothing. Requests and results are of a real step's
// type, so that the codec has the same work.
const (
	bareQueue       = "bench.control"
	barePrivileged  = activities.Zone("bench-privileged")
	bareObserve     = activities.Zone("bench-observe")
	bareWorkflow    = "bench.bare"
	targetsAtOnce   = 32 // enough to keep the server busy; fewer would measure waiting
	batches         = 4
	batchesOfSingle = 15
)

// bareStep is a step of the bare workflow.
type bareStep = activities.Activity[activities.StepRequest, activities.Proof]

func bareSteps() []bareStep {
	define := func(zone activities.Zone) bareStep {
		return activities.Define[activities.StepRequest, activities.Proof]("bench.nothing", zone, activities.Patient)
	}
	p, o := define(barePrivileged), define(bareObserve)
	return []bareStep{p, p, p, p, o, p, o, p} // open, mint, set, test, look, publish, converge, retire
}

func bare(ctx workflow.Context, request activities.StepRequest) (activities.Proof, error) {
	var last activities.Proof
	for _, step := range bareSteps() {
		var err error
		if last, err = step.Run(ctx, "", "nothing", request); err != nil {
			return last, err
		}
	}
	return last, nil
}

// startBare serves the bare workflow beside castellan's zones, with the slots that they have.
func startBare(t testing.TB, c client.Client) {
	t.Helper()
	nothing := func(context.Context, activities.StepRequest) (activities.Proof, error) {
		return activities.Proof{At: time.Now(), Sentence: "nothing was done, as asked"}, nil
	}
	control := worker.New(c, bareQueue, worker.Options{MaxConcurrentActivityExecutionSize: 1})
	control.RegisterWorkflowWithOptions(bare, workflow.RegisterOptions{Name: bareWorkflow})
	start(t, control)
	for zone, slots := range map[activities.Zone]int{barePrivileged: 32, bareObserve: 128} {
		w := worker.New(c, zone.Queue(""), worker.Options{DisableWorkflowWorker: true, MaxConcurrentActivityExecutionSize: slots})
		activities.Define[activities.StepRequest, activities.Proof]("bench.nothing", zone, activities.Patient).Register(w, nothing)
		start(t, w)
	}
}

// rotations compares rotations and bare workflows: many at once, and one at a time. Times are the
// server's own, from the first start to the last close, so that a client that hears late does not count.
func rotations(t testing.TB) []row {
	h := openHouse(t, targetsAtOnce)
	startBare(t, h.client)
	batch := 0
	bares := func(n int) []client.WorkflowRun {
		batch++
		var runs []client.WorkflowRun
		for i := range n {
			request := activities.StepRequest{
				Target: h.targets[i], Rotation: activities.NewRotationID(h.targets[i], activities.Epoch(batch)), Epoch: activities.Epoch(batch),
				Reason: "measured by the bench", Actor: "operator",
			}
			runs = append(runs, h.start(t, fmt.Sprintf("bare/%d/%d", batch, i), bareQueue, bareWorkflow, request))
		}
		return runs
	}
	real := func(n int) []client.WorkflowRun {
		var runs []client.WorkflowRun
		for _, target := range h.targets[:n] {
			trigger := activities.Trigger{Source: "operator", Actor: "operator", Reason: "measured by the bench", Now: true, Anytime: true}
			runs = append(runs, h.start(t, rotation.WorkflowID(target), activities.Control.Queue(""), rotation.Name, rotation.Input{Target: target, Trigger: trigger}))
		}
		return runs
	}
	for range 2 { // warm up; the first rotation of a target has no previous
		h.took(t, bares(targetsAtOnce))
		h.took(t, real(targetsAtOnce))
	}
	var bareTime, realTime time.Duration
	var pairs []string // how far the ratio wanders says how much it is worth
	for range batches {
		a, b := h.took(t, bares(targetsAtOnce)), h.took(t, real(targetsAtOnce))
		bareTime, realTime = bareTime+a, realTime+b
		pairs = append(pairs, ratio(float64(a), float64(b)))
	}
	var bareSingle, realSingle []time.Duration
	var single []client.WorkflowRun
	for range batchesOfSingle {
		bareSingle = append(bareSingle, h.took(t, bares(1)))
		runs := real(1)
		realSingle = append(realSingle, h.took(t, runs))
		single = append(single, runs...)
	}
	bareRate, realRate := rate(bareTime), rate(realTime)
	a, b := quantile(bareSingle, 0.5), quantile(realSingle, 0.5)
	rows := []row{
		{what: fmt.Sprintf("per second, %d at once", targetsAtOnce), baseline: fmt.Sprintf("%.1f", bareRate), castellan: fmt.Sprintf("%.1f", realRate), ratio: ratio(realRate, bareRate), aim: ">= 0.80"},
		{what: "of it, batch by batch", ratio: strings.Join(pairs, " ")},
		{what: "one alone, p50", baseline: millis(a), castellan: millis(b), ratio: ratio(float64(b), float64(a))},
	}
	rows = append(rows, h.steps(t, single))
	return append(rows, h.cost(t, bares(1)[0], single[0])...)
}

func rate(took time.Duration) float64 { return batches * targetsAtOnce / took.Seconds() }

// start starts a workflow.
func (h *house) start(t testing.TB, id, queue, name string, input any) client.WorkflowRun {
	t.Helper()
	run, err := h.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: queue}, name, input)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// took waits for the runs and returns the time from the first start to the last close.
func (h *house) took(t testing.TB, runs []client.WorkflowRun) time.Duration {
	t.Helper()
	var first, last time.Time
	for _, run := range runs {
		var result rotation.Result
		if err := run.Get(t.Context(), &result); err != nil {
			t.Fatal(err)
		}
		if result.Rotation != "" && result.State != activities.Retired {
			t.Fatalf("%s ended as %s: %s", run.GetID(), result.State, result.Sentence)
		}
		described, err := h.client.DescribeWorkflowExecution(t.Context(), run.GetID(), run.GetRunID())
		if err != nil {
			t.Fatal(err)
		}
		info := described.GetWorkflowExecutionInfo()
		if begun := info.GetStartTime().AsTime(); first.IsZero() || begun.Before(first) {
			first = begun
		}
		if closed := info.GetCloseTime().AsTime(); closed.After(last) {
			last = closed
		}
	}
	return last.Sub(first)
}

// steps says how long each activity of a single rotation runs, from its start to its result.
func (h *house) steps(t testing.TB, runs []client.WorkflowRun) row {
	t.Helper()
	var names []string
	took := map[string][]time.Duration{}
	for i, run := range runs {
		events := h.history(t, run)
		for _, event := range events {
			done := event.GetActivityTaskCompletedEventAttributes()
			if done == nil {
				continue
			}
			scheduled, started := events[done.GetScheduledEventId()-1], events[done.GetStartedEventId()-1]
			name := strings.TrimPrefix(scheduled.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName(), "rotate.")
			if i == 0 && !slices.Contains(names, name) {
				names = append(names, name)
			}
			took[name] = append(took[name], event.GetEventTime().AsTime().Sub(started.GetEventTime().AsTime()))
		}
	}
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %.0f", name, float64(quantile(took[name], 0.5))/1e6))
	}
	return row{what: "one alone, ms per step, p50", castellan: strings.Join(parts, ", ")}
}

// cost counts what a rotation leaves in its history, and what of it is billed by Temporal Cloud.
func (h *house) cost(t testing.TB, bare, real client.WorkflowRun) []row {
	t.Helper()
	var nothing any
	if err := bare.Get(t.Context(), &nothing); err != nil {
		t.Fatal(err)
	}
	a, b := h.history(t, bare), h.history(t, real)
	show := func(what, aim string, count func([]*historypb.HistoryEvent) int) row {
		x, y := count(a), count(b)
		return row{what: what, baseline: fmt.Sprint(x), castellan: fmt.Sprint(y), ratio: ratio(float64(y), float64(x)), aim: aim}
	}
	return []row{
		show("history events per run", "<= 60 events", func(e []*historypb.HistoryEvent) int { return len(e) }),
		show("billable actions per run", "<= 12 actions", actions),
		show("history bytes per run", "", func(e []*historypb.HistoryEvent) int { return proto.Size(&historypb.History{Events: e}) }),
	}
}

func (h *house) history(t testing.TB, run client.WorkflowRun) (events []*historypb.HistoryEvent) {
	t.Helper()
	for pages := h.client.GetWorkflowHistory(t.Context(), run.GetID(), run.GetRunID(), false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); pages.HasNext(); {
		event, err := pages.Next()
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, event)
	}
	return events
}

// actions counts starts, attempts of activities, timers and messages.
func actions(events []*historypb.HistoryEvent) int {
	count := 0
	for _, event := range events {
		switch event.GetEventType() {
		case enums.EVENT_TYPE_ACTIVITY_TASK_STARTED:
			count += int(event.GetActivityTaskStartedEventAttributes().GetAttempt())
		case enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, enums.EVENT_TYPE_TIMER_STARTED, enums.EVENT_TYPE_MARKER_RECORDED,
			enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
			count++
		}
	}
	return count
}
