// Package rotation is the durable process that replaces one credential: open, mint, set, test, publish
// wave by wave, converge, retire. It knows no vendor and no kind: those are behind the activities.
//
// A run costs 9 actions and 53 history events when there is one wave and no straggler (one start, eight
// activities). It lives hours at most unless a consumer straggles; then it looks ever more seldom and
// continues as new when the server suggests it. Register it Pinned where workers are versioned.
package rotation

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
)

// run is one execution of the workflow: the state that is carried, and what is not.
type run struct {
	state  State
	nudged bool // a message asks to look again at once
}

// quarantined is the reason of a verdict on a target whose last rotation stopped for a person.
const quarantined = "quarantined"

// errAborted ends the forward path because a person asked for it.
var errAborted = errors.New("aborted")

// errReverting sends a run that takes over a half rollback the same way back.
var errReverting = errors.New("it was being rolled back already")

// Rotation drives one rotation of one target to its end.
func Rotation(ctx workflow.Context, input Input) (Result, error) {
	r := new(run)
	if err := r.setup(ctx, input); err != nil {
		return Result{}, temporal.NewNonRetryableApplicationError(err.Error(), string(activities.Invalid), nil)
	}
	if err := r.listen(ctx); err != nil {
		return Result{}, err
	}
	// A cancellation of the workflow is a wish to abort, not a reason to stop half way.
	steps, stop := workflow.NewDisconnectedContext(ctx)
	defer stop()
	workflow.Go(steps, func(inner workflow.Context) {
		_ = workflow.Await(inner, func() bool { return ctx.Err() != nil })
		if ctx.Err() != nil && r.state.Abort == nil {
			r.state.Abort = &Request{Actor: "workflow cancellation", At: workflow.Now(inner)}
		}
	})
	result, err := r.drive(steps)
	if err != nil {
		return result, err
	}
	if awaitErr := workflow.Await(steps, func() bool { return workflow.AllHandlersFinished(steps) }); awaitErr != nil {
		return result, awaitErr
	}
	return result, nil
}

// setup takes over the state of the run before, or begins a new one.
func (r *run) setup(ctx workflow.Context, input Input) error {
	target, err := targetOf(ctx, input)
	if err != nil {
		return err
	}
	if input.Carried != nil {
		if input.Carried.Target != target {
			return fmt.Errorf("the carried state is of %q but the workflow id is of %q", input.Carried.Target, target)
		}
		r.state = *input.Carried
		return nil
	}
	if until := input.Trigger.Until; until != "" && until != activities.Tested {
		return fmt.Errorf("trigger.until %q: only %s is possible", until, activities.Tested)
	}
	r.state = State{
		Target: target, Host: input.Host, Trigger: input.Trigger,
		Run:   workflow.GetInfo(ctx).FirstRunID,
		State: activities.Planned,
	}
	if r.state.Trigger.Source == "" {
		r.state.Trigger.Source = "operator"
	}
	return nil
}

// drive goes forward until the rotation ends, and settles an abort or a failure on the way.
func (r *run) drive(ctx workflow.Context) (Result, error) {
	err := r.forward(ctx)
	switch {
	case err == nil:
		return r.finish(ctx), nil
	case workflow.IsContinueAsNewError(err):
		return Result{}, err
	case errors.Is(err, errAborted):
		return r.undo(ctx, fmt.Sprintf("aborted by %s: %s", or(r.state.Abort.Actor, "somebody"), or(r.state.Abort.Reason, "no reason given")))
	}
	return r.fail(ctx, err)
}

// forward takes the steps that are still missing, each at most once per run.
func (r *run) forward(ctx workflow.Context) error {
	if err := r.open(ctx); err != nil || r.state.State.Ended() {
		return err
	}
	if r.state.Plan.Reverting {
		return errReverting
	}
	for _, step := range []struct {
		reaches activities.State
		take    func(workflow.Context) error
	}{
		{activities.Minted, r.mint},
		{activities.Set, r.set},
		{activities.Tested, r.test},
	} {
		if err := r.gate(ctx); err != nil {
			return err
		}
		if rank[r.state.State] >= rank[step.reaches] {
			continue
		}
		if err := step.take(ctx); err != nil {
			return err
		}
		r.reached(ctx, step.reaches)
	}
	if r.state.Trigger.Until == activities.Tested && rank[r.state.State] <= rank[activities.Tested] && !r.state.Touched {
		r.state.Sentence = "stopped before publishing, as asked; the next rotation goes on from here"
		return nil
	}
	if err := r.spread(ctx); err != nil {
		return err
	}
	return r.retire(ctx)
}

// rank orders the states of a rotation that moves forward.
var rank = map[activities.State]int{
	activities.Planned: 1, activities.Minted: 2, activities.Set: 3, activities.Tested: 4,
	activities.Published: 5, activities.Converged: 6, activities.Retired: 7, activities.ProvenDead: 8,
}

// open asks for the rotation to drive, and waits for its window.
func (r *run) open(ctx workflow.Context) error {
	moves := 0
	for r.state.Plan.Rotation == "" {
		if err := r.gate(ctx); err != nil {
			return err
		}
		r.nudged = false
		request := activities.OpenRequest{Target: r.state.Target, Run: r.state.Run, Trigger: r.state.Trigger}
		plan, err := activities.Open.Run(ctx, r.state.Host, "is "+r.state.Target+" due?", request)
		if err != nil {
			return err
		}
		if plan.Rotation == "" && plan.Host != r.state.Host {
			if moves++; moves > 3 {
				return temporal.NewNonRetryableApplicationError(fmt.Sprintf("workers do not agree on the host of %q: %q and %q", r.state.Target, r.state.Host, plan.Host), string(activities.Invalid), nil)
			}
			r.state.Host = plan.Host // only the worker on that host can see the target
			continue
		}
		r.state.Plan = plan
		if plan.Rotation != "" {
			r.state.Candidate = plan.Candidate
			r.state.State = plan.State
			r.state.Touched = plan.Published
			r.state.Host = plan.Host
			if plan.State.Ended() {
				r.state.Sentence = plan.Verdict.Sentence
			}
			r.show(ctx)
			return nil
		}
		now := workflow.Now(ctx)
		if plan.Observed || !plan.Verdict.Due || !plan.Verdict.Wait.After(now) {
			if r.nudged {
				continue // rotate-now arrived while we looked
			}
			r.state.State = activities.NotDue
			r.state.Sentence = plan.Verdict.Sentence
			if plan.Verdict.Reason == quarantined {
				r.hold(ctx, r.state.Sentence) // asked again and again, it would say the same until a person comes
			}
			return nil
		}
		if err := r.wait(ctx, waitWindow, plan.Verdict.Wait, func() bool { return r.nudged || r.state.Abort != nil }); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) step() activities.StepRequest {
	return activities.StepRequest{
		Target: r.state.Target, Rotation: r.state.Plan.Rotation, Epoch: r.state.Plan.Epoch,
		Reason: or(r.state.Trigger.Reason, r.state.Plan.Verdict.Sentence), Actor: r.state.Trigger.Actor,
	}
}

func (r *run) mint(ctx workflow.Context) error {
	candidate, err := activities.Mint.Run(ctx, r.state.Host, "mint the candidate", r.step())
	r.state.Candidate = candidate
	return err
}

func (r *run) set(ctx workflow.Context) error {
	candidate, err := activities.SetStep.Run(ctx, r.state.Host, "make the candidate known", r.step())
	r.state.Candidate = candidate
	return err
}

func (r *run) test(ctx workflow.Context) error {
	_, err := activities.Test.Run(ctx, r.state.Host, "test the candidate before anyone sees it", r.step())
	return err
}

// retire proves the previous dead if it must be, and erases it.
func (r *run) retire(ctx workflow.Context) error {
	dead := false
	if r.state.Plan.Compromise {
		death, err := activities.Prove.Run(ctx, r.state.Host, "revoke the previous and prove it refused", r.step())
		if err != nil {
			return err
		}
		dead, r.state.NotProvable, r.state.Sentence = death.Proven, death.NotProvable, death.Proof.Sentence
	}
	request := activities.RetireRequest{StepRequest: r.step(), Converged: r.state.Evidence, Dead: dead}
	proof, err := activities.Retire.Run(ctx, r.state.Host, "erase the previous", request)
	if err != nil {
		return err
	}
	r.state.Sentence = join(r.state.Sentence, proof.Sentence)
	r.state.State = activities.Retired
	if dead {
		r.state.State = activities.ProvenDead
	}
	return nil
}

// gate holds before a step while the rotation is paused, and turns an abort into the way back.
func (r *run) gate(ctx workflow.Context) error {
	if r.state.Paused != nil && r.state.Abort == nil {
		if err := r.wait(ctx, waitResume, time.Time{}, func() bool { return r.state.Paused == nil || r.state.Abort != nil }); err != nil {
			return err
		}
	}
	if r.state.Abort != nil {
		return errAborted
	}
	return nil
}

// wait blocks until the condition holds or the moment comes (zero: never), and shows what for.
func (r *run) wait(ctx workflow.Context, what string, until time.Time, ready func() bool) error {
	r.state.Waiting, r.state.WaitSince, r.state.WaitUntil = what, workflow.Now(ctx), until
	r.show(ctx)
	var err error
	if until.IsZero() {
		err = workflow.Await(ctx, ready)
	} else {
		options := workflow.AwaitOptions{Timeout: until.Sub(workflow.Now(ctx)), TimerOptions: workflow.TimerOptions{Summary: what}}
		_, err = workflow.AwaitWithOptions(ctx, options, ready)
	}
	r.state.Waiting, r.state.WaitUntil = "", time.Time{}
	r.show(ctx)
	return err
}

func (r *run) reached(ctx workflow.Context, state activities.State) {
	r.state.State = state
	r.show(ctx)
}

// show puts the state where an operator looks.
func (r *run) show(ctx workflow.Context) {
	r.state.Updated = workflow.Now(ctx)
	workflow.SetCurrentDetails(ctx, details(r.state, workflow.Now(ctx)))
}

func (r *run) finish(ctx workflow.Context) Result {
	r.show(ctx)
	return Result{
		Rotation: r.state.Plan.Rotation, State: r.state.State, Sentence: r.state.Sentence,
		Fingerprint: r.state.Candidate.Fingerprint, NotProvable: r.state.NotProvable,
		Verdict: r.state.Plan.Verdict, Waves: r.observedWaves(),
	}
}

// observedWaves tells what an observe-only target's rotation would do.
func (r *run) observedWaves() []activities.Wave {
	if r.state.Plan.Observed {
		return r.state.Plan.Waves
	}
	return nil
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
