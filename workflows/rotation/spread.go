package rotation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
)

// errBroken ends the forward path because the canary does not work with the candidate.
var errBroken = errors.New("the canary does not work with the candidate")

// errOutlived ends a run whose stragglers have outlasted its candidate: a fresh rotation has to follow,
// or the candidate runs out for everybody who does use it. Nothing is retired.
var errOutlived = errors.New("three quarters of the candidate's life were over")

// spread publishes wave by wave, and goes to the next only when every consumer of the wave is proven
// to use the candidate.
func (r *run) spread(ctx workflow.Context) error {
	waves := r.state.Plan.Waves
	for r.state.Wave < len(waves) {
		wave := waves[r.state.Wave]
		if !r.state.Placed {
			if err := r.place(ctx, wave); err != nil {
				return err
			}
		}
		if err := r.converge(ctx, wave); err != nil {
			return err
		}
		r.state.Wave, r.state.Placed = r.state.Wave+1, false
	}
	// The last moment at which there is a way back: what was asked for during the last look still counts.
	if err := r.gate(ctx); err != nil {
		return err
	}
	r.reached(ctx, activities.Converged)
	return nil
}

// place publishes the wave in hand.
func (r *run) place(ctx workflow.Context, wave activities.Wave) error {
	if err := r.gate(ctx); err != nil {
		return err
	}
	if r.state.Touched && r.state.Baseline == nil {
		r.state.Baseline = []string{} // what is broken now may be so because of the candidate
	}
	if r.state.Wave == 0 && r.state.Baseline == nil {
		if err := r.baseline(ctx, wave); err != nil {
			return err
		}
	}
	request := activities.PublishRequest{StepRequest: r.step(), Deliveries: wave.Deliveries}
	r.state.Touched = true
	if _, err := activities.Publish.Run(ctx, r.state.Host, "publish through "+strings.Join(wave.Deliveries, ", "), request); err != nil {
		return err
	}
	r.state.Placed, r.state.Rounds, r.state.Stragglers = true, 0, nil
	r.reached(ctx, activities.Published)
	return nil
}

// baseline notes which of the canary's addresses do not work before anything is published: those
// say nothing about the candidate afterwards.
func (r *run) baseline(ctx workflow.Context, wave activities.Wave) error {
	result, err := r.look(ctx, wave, 0)
	if err != nil {
		return err
	}
	r.state.Baseline = []string{}
	for _, s := range result.Stragglers {
		if s.Standing == activities.Broken {
			r.state.Baseline = append(r.state.Baseline, s.Consumer+" "+s.Address)
		}
	}
	return nil
}

// converge looks until every consumer of the wave is proven. It never gives up on a straggler by time.
func (r *run) converge(ctx workflow.Context, wave activities.Wave) error {
	for {
		if err := r.gate(ctx); err != nil {
			return err
		}
		result, err := r.look(ctx, wave, patience(r.state.Rounds))
		if err != nil && passing(err) {
			// Nobody could look. That says nothing about the consumers, and waiting harms none of them.
			r.state.Note = stamp(workflow.Now(ctx)) + " could not look: " + explain(err)
			if err := r.rest(ctx, 10*time.Minute); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		r.state.Rounds++
		r.state.Stragglers = merge(r.state.Stragglers, result.Stragglers)
		switch judge(r.state, workflow.Now(ctx)) {
		case waveProven:
			r.state.Evidence = append(r.state.Evidence, result.Proof.Evidence...)
			r.state.Converged = append(r.state.Converged, result.Converged...)
			r.state.Waiting, r.state.WaitSince = "", time.Time{}
			return nil
		case waveBroken:
			return fmt.Errorf("%w: %s", errBroken, describe(r.state.Stragglers))
		}
		if r.state.Candidate.Outlived(workflow.Now(ctx)) {
			return fmt.Errorf("%w before %s", errOutlived, describe(r.state.Stragglers))
		}
		if r.state.Waiting == "" {
			r.state.Waiting, r.state.WaitSince = waitConsume, workflow.Now(ctx)
		}
		r.show(ctx)
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return r.continueAsNew(ctx)
		}
		if pause := pause(r.state.Rounds); pause > 0 {
			if err := r.rest(ctx, pause); err != nil {
				return err
			}
		}
	}
}

// rest waits between two looks; a message ends it.
func (r *run) rest(ctx workflow.Context, pause time.Duration) error {
	r.nudged = false
	return r.wait(ctx, waitConsume, workflow.Now(ctx).Add(pause), func() bool { return r.nudged || r.state.Abort != nil })
}

// look runs one look at the wave's consumers; an abort cuts it short.
func (r *run) look(ctx workflow.Context, wave activities.Wave, patience time.Duration) (activities.ConvergeResult, error) {
	looking, cancel := workflow.WithCancel(ctx)
	defer cancel()
	request := activities.ConvergeRequest{
		StepRequest: r.step(), Fingerprint: r.state.Candidate.Fingerprint, Previous: r.state.Plan.Previous,
		Consumers: wave.Consumers, Patience: patience, Last: patience > 0 && r.state.Wave == len(r.state.Plan.Waves)-1,
	}
	future := activities.Converge.Start(looking, "", "who uses "+short(r.state.Candidate.Fingerprint)+"?", request)
	if err := workflow.Await(ctx, func() bool { return future.IsReady() || r.state.Abort != nil }); err != nil {
		return activities.ConvergeResult{}, err
	}
	if !future.IsReady() {
		return activities.ConvergeResult{}, errAborted
	}
	var result activities.ConvergeResult
	err := future.Get(ctx, &result)
	return result, err
}

// continueAsNew carries the state into a fresh history once no handler is running.
func (r *run) continueAsNew(ctx workflow.Context) error {
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return err
	}
	r.drain(ctx)
	carried := r.state.clone()
	return workflow.NewContinueAsNewError(ctx, Name, Input{Target: r.state.Target, Host: r.state.Host, Trigger: r.state.Trigger, Carried: &carried})
}

// undo is the way back: discard what was never published, or restore the previous and prove it.
func (r *run) undo(ctx workflow.Context, why string) (Result, error) {
	r.state.Sentence = why
	if r.state.Plan.Rotation == "" {
		r.state.State = activities.NotDue
		return r.finish(ctx), nil
	}
	end := activities.Aborted
	if r.state.Touched && r.state.Plan.Previous == "" {
		return r.quarantine(ctx, why+"; nothing was there before, so the candidate stays visible", nil)
	}
	if r.state.Touched {
		restored, err := activities.Rollback.Run(ctx, r.state.Host, "put the previous back", r.step())
		if err != nil {
			return r.quarantine(ctx, why, err)
		}
		r.state.Sentence = join(why, restored.Proof.Sentence)
		end = activities.RolledBack
		if err := r.reverted(ctx); err != nil {
			return r.quarantine(ctx, why, err)
		}
	}
	return r.end(ctx, end)
}

// reverted looks whether the consumers use the previous again, and says who does not.
func (r *run) reverted(ctx workflow.Context) error {
	if r.state.Plan.Previous == "" {
		return nil
	}
	var consumers []string
	for _, wave := range r.state.Plan.Waves[:min(r.state.Wave+1, len(r.state.Plan.Waves))] {
		consumers = append(consumers, wave.Consumers...)
	}
	request := activities.ConvergeRequest{
		StepRequest: r.step(), Fingerprint: r.state.Plan.Previous, Previous: r.state.Candidate.Fingerprint,
		Consumers: consumers, Patience: 30 * time.Second,
	}
	result, err := activities.Converge.Run(ctx, "", "do all use the previous again?", request)
	if err != nil {
		return err
	}
	r.state.Stragglers = result.Stragglers
	if missing := r.notBefore(result.Stragglers); len(missing) > 0 {
		return fmt.Errorf("the previous was restored, but %s", describe(missing))
	}
	r.state.Sentence = join(r.state.Sentence, fmt.Sprintf("%d addresses use it again", result.Addresses))
	return nil
}

// notBefore leaves out what was broken before the rotation began.
func (r *run) notBefore(stragglers []activities.Straggler) []activities.Straggler {
	return slices.DeleteFunc(slices.Clone(stragglers), func(s activities.Straggler) bool {
		return slices.Contains(r.state.Baseline, s.Consumer+" "+s.Address)
	})
}

// fail settles an error of the forward path.
func (r *run) fail(ctx workflow.Context, err error) (Result, error) {
	why := explain(err)
	if r.state.Plan.Rotation == "" {
		r.hold(ctx, why)
		return Result{}, err // nothing was begun; the failure of the run says it all
	}
	switch {
	case errors.Is(err, errBroken), errors.Is(err, errReverting):
		return r.undo(ctx, why)
	case errors.Is(err, errOutlived):
		r.state.Sentence = why
		return r.end(ctx, activities.Superseded)
	case activities.KindOf(err) == activities.Fenced:
		return r.overtaken(ctx, why)
	case !r.state.Touched:
		return r.undo(ctx, why) // nobody has seen the candidate: the next sweep begins afresh
	case activities.KindOf(err) == activities.Failed && rank[r.state.State] < rank[activities.Converged]:
		return r.undo(ctx, why)
	}
	return r.quarantine(ctx, why, nil)
}

// overtaken ends a run whose step was refused as late. If its own rotation is over, finished by a rescue
// or by the run that this one is an old copy of, it ends as that did; otherwise it is superseded.
func (r *run) overtaken(ctx workflow.Context, why string) (Result, error) {
	r.state.State, r.state.Sentence = activities.Superseded, why
	request := activities.OpenRequest{Target: r.state.Target, Run: r.state.Run, Rotation: r.state.Plan.Rotation}
	found, err := activities.Open.Run(ctx, r.state.Host, "how did "+string(r.state.Plan.Rotation)+" end?", request)
	if err == nil && found.Rotation == r.state.Plan.Rotation && found.State.Ended() {
		r.state.State, r.state.Sentence = found.State, join(why, found.Verdict.Sentence)
	}
	return r.finish(ctx), nil
}

// quarantine stops for a person and keeps everything as it is.
func (r *run) quarantine(ctx workflow.Context, why string, more error) (Result, error) {
	if more != nil {
		why = join(why, explain(more))
	}
	r.state.Sentence = why
	return r.end(ctx, activities.Quarantined)
}

// end records how the rotation ended other than by retiring the previous.
func (r *run) end(ctx workflow.Context, state activities.State) (Result, error) {
	request := activities.EndRequest{StepRequest: r.step(), State: state}
	request.Reason = r.state.Sentence
	if _, err := activities.End.Run(ctx, r.state.Host, "end as "+string(state), request); err != nil {
		if activities.KindOf(err) != activities.Fenced {
			return Result{}, err
		}
		state = activities.Superseded
	}
	r.state.State = state
	if state != activities.Superseded { // what follows must not wait
		r.hold(ctx, r.state.Sentence)
	}
	return r.finish(ctx), nil
}

// hold backs the target off. It is a courtesy to the target: if the record zone cannot be reached, the
// next sweep simply tries again sooner.
func (r *run) hold(ctx workflow.Context, why string) {
	request := activities.HoldRequest{Target: r.state.Target, Reason: why, Run: r.state.Run}
	if _, err := activities.Hold.Run(ctx, "", "hold "+r.state.Target+" back", request); err != nil {
		workflow.GetLogger(ctx).Warn("target not held back", "target", r.state.Target, "error", err)
	}
}

// described is how many stragglers one sentence names.
const described = 10

func describe(stragglers []activities.Straggler) string {
	var parts []string
	for i, s := range stragglers {
		if i == described {
			parts = append(parts, fmt.Sprintf("and %d more", len(stragglers)-i))
			break
		}
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s %s is %s %s", s.Consumer, s.Address, s.Standing, s.Detail)))
	}
	return strings.Join(parts, "; ")
}

func short(fingerprint string) string { return fingerprint[:min(12, len(fingerprint))] }
