package schedules

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
)

// Reconciler makes the engine's schedules as declared. It needs no more than the schedule client.
type Reconciler struct {
	Engine    client.ScheduleClient
	Converter converter.DataConverter // reads the input of schedules; nil: the default converter
	Successes Successes               // tells a deleted schedule from one that never was; may be nil
}

// Successes knows when the work of schedules last succeeded.
type Successes interface {
	// LastSuccess returns the moment of the last success by schedule id. A schedule that never succeeded
	// is absent.
	LastSuccess(ctx context.Context) (map[string]time.Time, error)
}

// Plan observes the engine and compares it with what is declared. It changes nothing.
func (r Reconciler) Plan(ctx context.Context, declared []Schedule, options Options) (Plan, error) {
	actual, err := r.Observe(ctx, declared)
	if err != nil {
		return Plan{}, err
	}
	known := map[string]time.Time{}
	if r.Successes != nil {
		if known, err = r.Successes.LastSuccess(ctx); err != nil {
			return Plan{}, fmt.Errorf("read last successes: %w", err)
		}
	}
	return diff(declared, actual, known, options)
}

// Apply carries out a plan, step by step. Each step observes before it acts, so that applying a plan
// twice is harmless; a step that fails does not keep the others from being tried.
func (r Reconciler) Apply(ctx context.Context, plan Plan) error {
	var failed []error
	for _, step := range plan.Steps {
		if err := r.apply(ctx, step); err != nil {
			failed = append(failed, fmt.Errorf("%s schedule %q: %w", step.Op, step.ID, err))
		}
	}
	return errors.Join(failed...)
}

// apply carries out one step.
func (r Reconciler) apply(ctx context.Context, step Step) error {
	handle := r.Engine.GetHandle(ctx, step.ID)
	switch step.Op {
	case Create:
		return r.create(ctx, step.declared)
	case Update:
		return r.update(ctx, handle, step.declared)
	case Resume:
		return handle.Unpause(ctx, client.ScheduleUnpauseOptions{Note: note})
	case Delete:
		if err := handle.Delete(ctx); !isNotFound(err) {
			return err
		}
	}
	return nil
}

// note is what a schedule says about itself in the Web UI while nobody has paused it.
const note = "declared by castellan; changes by hand are undone by `castellan schedules apply`"

// create makes a schedule.
func (r Reconciler) create(ctx context.Context, schedule Schedule) error {
	action, err := actionOf(schedule)
	if err != nil {
		return err
	}
	_, err = r.Engine.Create(ctx, client.ScheduleOptions{
		ID: schedule.ID(), Spec: specOf(schedule), Action: action,
		Overlap: overlapOf(schedule.Overlap), CatchupWindow: schedule.CatchUp,
		Note: note,
	})
	return err
}

// update replaces everything but the state: whether it is paused is a person's decision.
func (r Reconciler) update(ctx context.Context, handle client.ScheduleHandle, schedule Schedule) error {
	action, err := actionOf(schedule)
	if err != nil {
		return err
	}
	spec := specOf(schedule)
	return handle.Update(ctx, client.ScheduleUpdateOptions{DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
		state := in.Description.Schedule.State
		if state != nil {
			state.LimitedActions, state.RemainingActions = false, 0
		}
		return &client.ScheduleUpdate{Schedule: &client.Schedule{
			Action: action, Spec: &spec, State: state,
			Policy: &client.SchedulePolicies{Overlap: overlapOf(schedule.Overlap), CatchupWindow: schedule.CatchUp},
		}}, nil
	}})
}

// actionOf returns what the schedule starts.
func actionOf(schedule Schedule) (*client.ScheduleWorkflowAction, error) {
	want, err := schedule.shape()
	if err != nil {
		return nil, err
	}
	return &client.ScheduleWorkflowAction{
		ID: workflowID(schedule.ID(), want.digest()), Workflow: schedule.Workflow,
		Args: []any{schedule.Input}, TaskQueue: schedule.Queue,
	}, nil
}

// specOf returns when the schedule starts it.
func specOf(schedule Schedule) client.ScheduleSpec {
	return client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: schedule.Every}}, Jitter: schedule.Jitter}
}

// overlapOf returns the engine's word for an overlap policy.
func overlapOf(overlap Overlap) enums.ScheduleOverlapPolicy {
	if overlap == BufferOne {
		return enums.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE
	}
	return enums.SCHEDULE_OVERLAP_POLICY_SKIP
}

// Observe returns the declared schedules that exist, and every other one that is castellan's. The list
// lags behind by a moment, so that declared ones are asked for by id.
func (r Reconciler) Observe(ctx context.Context, declared []Schedule) ([]Actual, error) {
	ids := map[string]bool{}
	for _, schedule := range declared {
		ids[schedule.ID()] = true
	}
	list, err := r.Engine.List(ctx, client.ScheduleListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	for list.HasNext() {
		entry, err := list.Next()
		if err != nil {
			return nil, fmt.Errorf("list schedules: %w", err)
		}
		if strings.HasPrefix(entry.ID, Prefix) {
			ids[entry.ID] = true
		}
	}
	var found []Actual
	for id := range ids {
		description, err := r.Engine.GetHandle(ctx, id).Describe(ctx)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("describe schedule %q: %w", id, err)
		}
		found = append(found, r.actual(id, description))
	}
	return found, nil
}

// actual reduces a description to what is compared.
func (r Reconciler) actual(id string, d *client.ScheduleDescription) Actual {
	found := Actual{
		ID: id, Created: d.Info.CreatedAt,
		MissedCatchUp: d.Info.NumActionsMissedCatchupWindow, SkippedOverlap: d.Info.NumActionsSkippedOverlap,
	}
	if state := d.Schedule.State; state != nil {
		if found.Paused = state.Paused; state.Paused && state.Note != note {
			found.Note = state.Note
		}
		if state.LimitedActions {
			found.shape.Other = "a limited number of runs"
		}
	}
	if policy := d.Schedule.Policy; policy != nil {
		found.shape.Overlap = overlapName(policy.Overlap)
		found.shape.CatchUp, found.shape.PauseOnFailure = policy.CatchupWindow, policy.PauseOnFailure
	}
	if spec := d.Schedule.Spec; spec != nil {
		found.shape.Jitter = spec.Jitter
		if len(spec.Intervals) > 0 {
			found.shape.Every = spec.Intervals[0].Every
		}
		if other := beyondInterval(spec); other != "" {
			found.shape.Other = strings.TrimPrefix(found.shape.Other+", "+other, ", ")
		}
	}
	if action, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction); ok {
		// The mark is the digest in the action's workflow id. A memo would do as well, but memos are
		// stored in clear and so castellan writes none.
		found.Applied = digestIn(action.ID, id)
		found.Owned = found.Applied != ""
		found.shape.Workflow, _ = action.Workflow.(string)
		found.shape.Queue, found.shape.Input = action.TaskQueue, r.input(action.Args)
	}
	return found
}

// beyondInterval names what a spec has that castellan never declares.
func beyondInterval(spec *client.ScheduleSpec) string {
	var other []string
	add := func(present bool, what string) {
		if present {
			other = append(other, what)
		}
	}
	add(len(spec.Intervals) > 1, "further intervals")
	add(len(spec.Intervals) > 0 && spec.Intervals[0].Offset != 0, "an offset")
	add(len(spec.Calendars)+len(spec.CronExpressions) > 0, "calendars")
	add(len(spec.Skip) > 0, "skipped times")
	add(!spec.StartAt.IsZero() && spec.StartAt.Unix() != 0, "a start date")
	add(!spec.EndAt.IsZero() && spec.EndAt.Unix() != 0, "an end date")
	return strings.Join(other, ", ")
}

// overlapName returns castellan's word for the engine's policy.
func overlapName(overlap enums.ScheduleOverlapPolicy) string {
	switch overlap {
	case enums.SCHEDULE_OVERLAP_POLICY_SKIP, enums.SCHEDULE_OVERLAP_POLICY_UNSPECIFIED:
		return string(Skip)
	case enums.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE:
		return string(BufferOne)
	}
	return overlap.String()
}

// input returns the action's argument as canonical JSON, or what keeps it from being read.
func (r Reconciler) input(args []any) string {
	if len(args) != 1 {
		return fmt.Sprintf("%d arguments", len(args))
	}
	payload, ok := args[0].(*commonpb.Payload)
	if !ok {
		return "not a payload"
	}
	reader := r.Converter
	if reader == nil {
		reader = converter.GetDefaultDataConverter()
	}
	var value any
	if err := reader.FromPayload(payload, &value); err != nil {
		return "unreadable"
	}
	text, err := canonical(value)
	if err != nil {
		return "unreadable"
	}
	return text
}

// isNotFound reports whether the engine does not have the schedule.
func isNotFound(err error) bool {
	var missing *serviceerror.NotFound
	return errors.As(err, &missing)
}

// IsTaken reports whether applying failed because a schedule of that id appeared in the meantime.
func IsTaken(err error) bool { return errors.Is(err, temporal.ErrScheduleAlreadyRunning) }
