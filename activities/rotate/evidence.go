package rotate

import (
	"context"
	"maps"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// Facts that are evidence only; the service database does not read them.
const (
	factReason     = "reason"     // the policy's machine reason
	factDeliveries = "deliveries" // comma-separated names
)

// journal appends what a step intends and what came of it.
type journal struct {
	recorder record.Recorder
	now      func() time.Time
}

// Caller says which workflow run and step an activity works for. Outside an activity (rescue, tests)
// it comes from the context given to WithCaller.
type Caller struct {
	Workflow string
	Run      string
	Step     string
}

type callerKey struct{}

// WithCaller returns a context whose evidence is recorded for the given caller. Only code that runs
// the steps without the engine needs it.
func WithCaller(ctx context.Context, caller Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

func callerOf(ctx context.Context) Caller {
	if caller, ok := ctx.Value(callerKey{}).(Caller); ok {
		return caller
	}
	info := activity.GetInfo(ctx)
	return Caller{Workflow: info.WorkflowExecution.ID, Run: info.WorkflowExecution.RunID, Step: info.ActivityType.Name}
}

// entry fills what every entry of a step has in common.
func (j journal) entry(ctx context.Context, request activities.StepRequest, suffix string) record.Entry {
	caller := callerOf(ctx)
	step := caller.Step
	if suffix != "" {
		step += "/" + suffix
	}
	return record.Entry{
		Workflow: caller.Workflow,
		Run:      caller.Run,
		Step:     step,
		Target:   request.Target,
		Rotation: request.Rotation,
		Epoch:    request.Epoch,
		Actor:    request.Actor,
		Reason:   clip(request.Reason),
		At:       j.now().UTC(),
	}
}

// effect records the intent, acts, and records the outcome. The act returns facts for the outcome.
//
// Without a recorded intent nothing is done. A passing failure leaves no outcome, because the next
// attempt of the same step will have one; a final failure is recorded under its own step name, so that
// a later success of the same step is not taken for a repetition.
func (j journal) effect(ctx context.Context, request activities.StepRequest, suffix string, intent map[string]string, act func() (map[string]string, error)) (string, error) {
	entry := j.entry(ctx, request, suffix)
	entry.Phase = record.Intent
	entry.Facts = clipped(intent)
	if _, err := j.recorder.Append(ctx, entry); err != nil {
		return "", err
	}
	facts, err := act()
	if err == nil {
		return j.outcome(ctx, request, suffix, facts)
	}
	kind := activities.KindOf(err)
	if !settled(kind) {
		return "", err
	}
	outcome := j.entry(ctx, request, suffix)
	outcome.Phase = record.Outcome
	outcome.Step += "/" + string(kind)
	outcome.Result = string(kind)
	// What the act would have made true is not: no state is claimed.
	outcome.Facts = map[string]string{record.FactSentence: clip(err.Error())}
	if _, recordErr := j.recorder.Append(ctx, outcome); recordErr != nil {
		return "", recordErr
	}
	return "", err
}

// outcome records that a step succeeded.
func (j journal) outcome(ctx context.Context, request activities.StepRequest, suffix string, facts map[string]string) (string, error) {
	entry := j.entry(ctx, request, suffix)
	entry.Phase = record.Outcome
	entry.Result = "ok"
	entry.Facts = clipped(facts)
	return j.recorder.Append(ctx, entry)
}

// fact records an observation.
func (j journal) fact(ctx context.Context, request activities.StepRequest, suffix, result string, facts map[string]string) (string, error) {
	entry := j.entry(ctx, request, suffix)
	entry.Phase = record.Fact
	entry.Result = result
	entry.Facts = clipped(facts)
	return j.recorder.Append(ctx, entry)
}

// textLimit is how much text the evidence takes in one piece. A sentence can name hundreds of addresses
// and a person may give a long reason; neither may keep a step from being recorded, and so from ending.
const textLimit = 8000

func clip(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "?")
	if len(text) <= textLimit {
		return text
	}
	return strings.ToValidUTF8(text[:textLimit], "") + " ..."
}

func clipped(facts map[string]string) map[string]string {
	out := maps.Clone(facts)
	for name, value := range out {
		out[name] = clip(value)
	}
	return out
}

// settled reports whether a failure of this kind is an outcome rather than a reason to try again.
func settled(kind activities.Kind) bool {
	switch kind {
	case activities.Denied, activities.Invalid, activities.Fenced, activities.Failed, activities.Conflict:
		return true
	}
	return false
}
