package schedules

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.temporal.io/server/temporaltest"
)

// remembered is what the service database would tell about successes.
type remembered map[string]time.Time

func (r remembered) LastSuccess(context.Context) (map[string]time.Time, error) { return r, nil }

// engine starts a real Temporal server and returns a client to it.
func engine(t *testing.T) client.Client {
	t.Helper()
	return temporaltest.NewServer(temporaltest.WithT(t)).GetDefaultClient()
}

// apply plans and applies, and returns the plan's operations by id.
func apply(t *testing.T, r Reconciler, declared []Schedule, options Options) map[string]Op {
	t.Helper()
	plan, err := r.Plan(t.Context(), declared, options)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	ops := map[string]Op{}
	for _, step := range plan.Steps {
		ops[step.ID] = step.Op
	}
	return ops
}

// eventually polls until the condition holds: the engine applies changes to schedules a moment later.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30s", what)
		}
		time.Sleep(20 * time.Millisecond) // between two polls
	}
}

// planned polls until the plan for a schedule is the operation.
func planned(t *testing.T, r Reconciler, declared []Schedule, id string, want Op) Step {
	t.Helper()
	var found Step
	eventually(t, string(want)+" "+id, func() bool {
		plan, err := r.Plan(t.Context(), declared, Options{})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(plan.Steps, func(s Step) bool { return s.ID == id })
		if i >= 0 {
			found = plan.Steps[i]
		}
		return i >= 0 && found.Op == want
	})
	return found
}

func TestReconcilingARealEngine(t *testing.T) {
	c := engine(t)
	r := Reconciler{Engine: c.ScheduleClient()}
	declared := declare(t, map[string]Override{"extra": {Every: time.Hour}})
	const sweep, extra = "castellan/sweep", "castellan/extra"

	if diff := cmp.Diff(map[string]Op{sweep: Create, extra: Create}, apply(t, r, declared, Options{})); diff != "" {
		t.Fatalf("first apply (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]Op{sweep: Keep, extra: Keep}, apply(t, r, declared, Options{})); diff != "" {
		t.Fatalf("second apply (-want +got):\n%s", diff)
	}
	description, err := c.ScheduleClient().GetHandle(t.Context(), sweep).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := description.Schedule.Policy; got.Overlap != enums.SCHEDULE_OVERLAP_POLICY_SKIP || got.CatchupWindow != time.Minute || got.PauseOnFailure {
		t.Errorf("policy = %+v, want skip, one minute, no pause on failure", got)
	}

	t.Run("a declaration that changed is updated in place", func(t *testing.T) {
		changed := declare(t, map[string]Override{"extra": {Every: 2 * time.Hour}})
		if got := apply(t, r, changed, Options{})[extra]; got != Update {
			t.Fatalf("op = %s, want update", got)
		}
		planned(t, r, changed, extra, Keep)
		declared = changed
	})
	t.Run("one that is no longer declared is deleted, a foreign one is left", func(t *testing.T) {
		foreign := client.ScheduleOptions{
			ID: "castellan/mine", Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour}}},
			Action: &client.ScheduleWorkflowAction{ID: "mine", Workflow: "mine", TaskQueue: "mine"},
		}
		if _, err := c.ScheduleClient().Create(t.Context(), foreign); err != nil {
			t.Fatal(err)
		}
		declared = declare(t, nil)
		eventually(t, "the deletion is planned", func() bool {
			return apply(t, r, declared, Options{})[extra] == Delete
		})
		eventually(t, "the schedule is gone", func() bool {
			_, err := c.ScheduleClient().GetHandle(t.Context(), extra).Describe(t.Context())
			return isNotFound(err)
		})
		if _, err := c.ScheduleClient().GetHandle(t.Context(), "castellan/mine").Describe(t.Context()); err != nil {
			t.Errorf("the foreign schedule: %v, want it untouched", err)
		}
	})
	t.Run("one that was paused by hand stays paused until it is resumed on request", func(t *testing.T) {
		handle := c.ScheduleClient().GetHandle(t.Context(), sweep)
		if err := handle.Pause(t.Context(), client.SchedulePauseOptions{Note: "maintenance by ada"}); err != nil {
			t.Fatal(err)
		}
		if step := planned(t, r, declared, sweep, Leave); !strings.Contains(step.Sentence, "maintenance by ada") {
			t.Errorf("sentence = %q, want the note", step.Sentence)
		}
		apply(t, r, declared, Options{})
		planned(t, r, declared, sweep, Leave)
		if got := apply(t, r, declared, Options{Resume: true})[sweep]; got != Resume {
			t.Fatalf("op = %s, want resume", got)
		}
		planned(t, r, declared, sweep, Keep)
	})
	t.Run("one that was edited by hand is restored, and stays paused if it is", func(t *testing.T) {
		handle := c.ScheduleClient().GetHandle(t.Context(), sweep)
		edit(t, handle, func(s *client.Schedule) {
			s.Spec.Intervals[0].Every = 6 * time.Hour
			s.Policy.PauseOnFailure = true
			s.State.Paused, s.State.Note = true, "slow down"
		})
		step := planned(t, r, declared, sweep, Update)
		if !step.ByHand {
			t.Errorf("step = %+v, want it recognised as edited by hand", step)
		}
		apply(t, r, declared, Options{})
		planned(t, r, declared, sweep, Leave) // paused, otherwise as declared
		apply(t, r, declared, Options{Resume: true})
		planned(t, r, declared, sweep, Keep)
	})
	t.Run("one that was deleted by hand is made again, and said", func(t *testing.T) {
		if err := c.ScheduleClient().GetHandle(t.Context(), sweep).Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.Successes = remembered{sweep: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
		if step := planned(t, r, declared, sweep, Create); !step.ByHand {
			t.Errorf("step = %+v, want it recognised as deleted by hand", step)
		}
		apply(t, r, declared, Options{})
		planned(t, r, declared, sweep, Keep)
	})
}

// edit changes a schedule as a person would in the Web UI.
func edit(t *testing.T, handle client.ScheduleHandle, change func(*client.Schedule)) {
	t.Helper()
	err := handle.Update(t.Context(), client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
		schedule := in.Description.Schedule
		change(&schedule)
		return &client.ScheduleUpdate{Schedule: &schedule}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestReconcilingThroughACodecThatNeverWritesTheSameTwice(t *testing.T) {
	server := temporaltest.NewServer(temporaltest.WithT(t))
	encoded := converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), &salted{})
	c, err := client.Dial(client.Options{HostPort: server.GetFrontendHostPort(), Namespace: server.GetDefaultNamespace(), DataConverter: encoded})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	declared := declare(t, nil)
	r := Reconciler{Engine: c.ScheduleClient(), Converter: encoded}
	apply(t, r, declared, Options{})
	planned(t, r, declared, "castellan/sweep", Keep)

	// Without the codec the input cannot be read: that must show, not pass for equal.
	blind := Reconciler{Engine: c.ScheduleClient()}
	planned(t, blind, declared, "castellan/sweep", Update)
}

func TestWatchdogOnARealEngine(t *testing.T) {
	c := engine(t)
	declared := declare(t, nil)
	success := remembered{}
	r := Reconciler{Engine: c.ScheduleClient(), Successes: success}
	apply(t, r, declared, Options{})
	logs := &lines{}
	now := time.Now()
	w := NewWatchdog(WatchdogParts{Declared: declared, Reconciler: r, Log: logs.logger(), Now: func() time.Time { return now }})
	look := func() Standing {
		t.Helper()
		if err := w.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		return w.Standings()[0]
	}
	handle := c.ScheduleClient().GetHandle(t.Context(), "castellan/sweep")

	if got := look(); len(got.Alarms()) != 0 {
		t.Errorf("alarms = %q right after it was made, want none", got.Alarms())
	}
	if err := handle.Pause(t.Context(), client.SchedulePauseOptions{Note: "by ada"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pause is noticed", func() bool { return look().Paused })
	if !logs.has("is paused: by ada") {
		t.Errorf("logs = %q, want the pause", logs)
	}
	if err := handle.Unpause(t.Context(), client.ScheduleUnpauseOptions{}); err != nil {
		t.Fatal(err)
	}
	edit(t, handle, func(s *client.Schedule) { s.Spec.Intervals[0].Every = time.Hour })
	eventually(t, "the edit is noticed", func() bool { got := look(); return got.Edited && !got.Paused })
	if err := handle.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion is noticed", func() bool { return look().Deleted })
	success["castellan/sweep"] = now
	now = now.Add(6 * time.Minute)
	if got := look(); !got.Late {
		t.Errorf("standing = %+v six minutes after the last success, want late", got)
	}
}

func TestADeclaredScheduleStartsItsWorkflowWithItsInput(t *testing.T) {
	server := temporaltest.NewServer(temporaltest.WithT(t))
	declared := declare(t, map[string]Override{Sweep: {Every: time.Second}})
	started := make(chan input, 100)
	server.NewWorker(declared[0].Queue, func(registry worker.Registry) {
		registry.RegisterWorkflowWithOptions(func(_ workflow.Context, in input) error {
			started <- in
			return nil
		}, workflow.RegisterOptions{Name: declared[0].Workflow})
	})
	apply(t, Reconciler{Engine: server.GetDefaultClient().ScheduleClient()}, declared, Options{})
	for range 2 {
		select {
		case got := <-started:
			if got.Schedule != "castellan/sweep" {
				t.Errorf("started for schedule %q, want castellan/sweep", got.Schedule)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the workflow was not started twice within 30s")
		}
	}
}
