package rescue

import (
	"context"
	"fmt"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/rotate"
)

// Outcome says where the target's rotation stands after a rescue.
type Outcome struct {
	Target      string                 `json:"target"`
	Rotation    activities.RotationID  `json:"rotation,omitempty"`
	State       activities.State       `json:"state,omitempty"`
	Fingerprint string                 `json:"fingerprint,omitempty"`
	Sentence    string                 `json:"sentence"`
	Acted       bool                   `json:"acted"` // false: there was nothing to rescue
	NotProvable []string               `json:"not_provable,omitempty"`
	Stragglers  []activities.Straggler `json:"stragglers,omitempty"` // who kept it from ending
}

// Forward finishes the rotation in hand with its own candidate. With stragglers left it stops before
// retiring anything, and may be run again.
func (r *Rescue) Forward(ctx context.Context) (Outcome, error) {
	head, err := r.steps.Head(ctx, r.target.Name)
	if err != nil || !head.Open() {
		return r.idle(head), err
	}
	if returning(head) {
		return r.outcome(head), activities.Errorf(activities.Conflict, "rotation %s is being rolled back: the fence is at epoch %d, so it can only go back", head.Rotation, head.Epoch)
	}
	request := r.request(head)
	if err := r.prepare(ctx, head, request); err != nil {
		return r.outcome(head), err
	}
	if head, err = r.steps.Head(ctx, r.target.Name); err != nil {
		return Outcome{}, err
	}
	evidence, missing, err := r.spread(ctx, head, request)
	if err != nil || len(missing) > 0 {
		return r.stuck(ctx, missing, err)
	}
	return r.retire(ctx, head, request, evidence)
}

// prepare takes the steps before anything is visible.
func (r *Rescue) prepare(ctx context.Context, head rotate.Head, request activities.StepRequest) error {
	steps := []struct {
		reaches activities.State
		name    string
		take    func(context.Context) error
	}{
		{activities.Minted, activities.Mint.Name, func(ctx context.Context) error { _, err := r.steps.Mint(ctx, request); return err }},
		{activities.Set, activities.SetStep.Name, func(ctx context.Context) error { _, err := r.steps.Set(ctx, request); return err }},
		{activities.Tested, activities.Test.Name, func(ctx context.Context) error { _, err := r.steps.Test(ctx, request); return err }},
	}
	for _, step := range steps {
		if order[head.State] >= order[step.reaches] {
			continue
		}
		if err := r.persist(ctx, step.name, step.take); err != nil {
			return err
		}
		r.tell(Event{Step: step.name, State: step.reaches, Sentence: "done"})
	}
	return nil
}

// spread publishes wave by wave, and goes on only when every consumer of the wave is proven.
func (r *Rescue) spread(ctx context.Context, head rotate.Head, request activities.StepRequest) (evidence []string, missing []activities.Straggler, err error) {
	for i, wave := range r.target.Waves {
		if order[head.State] < order[activities.Converged] {
			publish := activities.PublishRequest{StepRequest: request, Deliveries: wave.Deliveries}
			var result activities.PublishResult
			err := r.persist(ctx, activities.Publish.Name, func(ctx context.Context) (err error) {
				result, err = r.steps.Publish(ctx, publish)
				return err
			})
			if err != nil {
				return nil, nil, err
			}
			r.tell(Event{Step: activities.Publish.Name, State: activities.Published, Sentence: result.Proof.Sentence})
		}
		last := i == len(r.target.Waves)-1
		seen, err := r.converge(ctx, request, head.Candidate.Fingerprint, head.Previous.Fingerprint, wave.Consumers, r.options.Patience, last)
		if err != nil {
			return nil, nil, err
		}
		if len(seen.Stragglers) > 0 {
			r.tell(Event{Step: activities.Converge.Name, Sentence: fmt.Sprintf("%s not proven to use the candidate", count(len(seen.Stragglers))), Stragglers: seen.Stragglers})
			return nil, seen.Stragglers, nil
		}
		r.tell(Event{Step: activities.Converge.Name, Sentence: fmt.Sprintf("%s proven to use the candidate", count(seen.Addresses))})
		evidence = append(evidence, seen.Proof.Evidence...)
	}
	return evidence, nil, nil
}

// retire proves the previous dead where it must be, and erases it.
func (r *Rescue) retire(ctx context.Context, head rotate.Head, request activities.StepRequest, evidence []string) (Outcome, error) {
	var death activities.DeathResult
	if head.Trigger.Compromise {
		err := r.persist(ctx, activities.Prove.Name, func(ctx context.Context) (err error) {
			death, err = r.steps.Prove(ctx, request)
			return err
		})
		if err != nil {
			return r.stuck(ctx, nil, err)
		}
		r.tell(Event{Step: activities.Prove.Name, Sentence: death.Proof.Sentence})
	}
	var proof activities.Proof
	err := r.persist(ctx, activities.Retire.Name, func(ctx context.Context) (err error) {
		proof, err = r.steps.Retire(ctx, activities.RetireRequest{StepRequest: request, Converged: evidence, Dead: death.Proven})
		return err
	})
	if err != nil {
		return r.stuck(ctx, nil, err)
	}
	if head, err = r.steps.Head(ctx, r.target.Name); err != nil {
		return Outcome{}, err
	}
	r.tell(Event{Step: activities.Retire.Name, State: head.State, Sentence: proof.Sentence})
	out := r.outcome(head)
	out.NotProvable = death.NotProvable
	return out, nil
}

// Rollback takes the rotation in hand back: the candidate is discarded, and where it may have been seen
// the previous is put back and proven.
func (r *Rescue) Rollback(ctx context.Context) (Outcome, error) {
	head, err := r.steps.Head(ctx, r.target.Name)
	if err != nil || !head.Open() {
		return r.idle(head), err
	}
	if order[head.State] >= order[activities.Converged] {
		return r.outcome(head), activities.Errorf(activities.Conflict, "rotation %s is %s and its previous is being retired: only forward is possible", head.Rotation, head.State)
	}
	request := r.request(head)
	end := activities.Aborted
	if len(head.Published) > 0 || returning(head) {
		end = activities.RolledBack
		missing, err := r.restore(ctx, head, request)
		if err != nil || len(missing) > 0 {
			return r.stuck(ctx, missing, err)
		}
	}
	ending := activities.EndRequest{StepRequest: request, State: end}
	if err := r.persist(ctx, activities.End.Name, func(ctx context.Context) error { _, err := r.steps.End(ctx, ending); return err }); err != nil {
		return r.stuck(ctx, nil, err)
	}
	if head, err = r.steps.Head(ctx, r.target.Name); err != nil {
		return Outcome{}, err
	}
	r.tell(Event{Step: activities.End.Name, State: head.State, Sentence: "candidate discarded"})
	return r.outcome(head), nil
}

// restore puts the previous back and looks whether the consumers use it.
func (r *Rescue) restore(ctx context.Context, head rotate.Head, request activities.StepRequest) ([]activities.Straggler, error) {
	var restored activities.PublishResult
	err := r.persist(ctx, activities.Rollback.Name, func(ctx context.Context) (err error) {
		restored, err = r.steps.Rollback(ctx, request)
		return err
	})
	if err != nil {
		return nil, err
	}
	if head.Previous.Fingerprint == "" {
		r.tell(Event{Step: activities.Rollback.Name, Sentence: "there was nothing before: where the candidate was published it stays visible"})
		return nil, nil
	}
	r.tell(Event{Step: activities.Rollback.Name, Sentence: restored.Proof.Sentence})
	seen, err := r.converge(ctx, request, head.Previous.Fingerprint, head.Candidate.Fingerprint, r.everybody(), r.options.Patience, false)
	if err != nil {
		return nil, err
	}
	sentence := fmt.Sprintf("%s proven to use the previous again", count(seen.Addresses))
	if len(seen.Stragglers) > 0 {
		sentence = fmt.Sprintf("%s not proven to use the previous yet", count(len(seen.Stragglers)))
	}
	r.tell(Event{Step: activities.Converge.Name, Sentence: sentence, Stragglers: seen.Stragglers})
	return seen.Stragglers, nil
}

// request names the rotation in hand.
func (r *Rescue) request(head rotate.Head) activities.StepRequest {
	return activities.StepRequest{Target: r.target.Name, Rotation: head.Rotation, Epoch: head.Of, Reason: r.options.Reason, Actor: r.options.Actor}
}

// converge looks who uses the wanted credential.
func (r *Rescue) converge(ctx context.Context, request activities.StepRequest, want, before string, consumers []string, patience time.Duration, last bool) (activities.ConvergeResult, error) {
	return r.watcher.Converge(r.as(ctx, activities.Converge.Name), activities.ConvergeRequest{
		StepRequest: request, Fingerprint: want, Previous: before, Consumers: consumers, Patience: patience, Last: last,
	})
}

// as returns a context whose evidence names rescue where a workflow would stand.
func (r *Rescue) as(ctx context.Context, step string) context.Context {
	return rotate.WithCaller(ctx, rotate.Caller{Workflow: "rescue/" + r.target.Name, Run: r.run, Step: step})
}

// retryEvery is the pause before a step is tried again.
const retryEvery = time.Second

// persist takes a step, again while its failure may pass and patience lasts.
func (r *Rescue) persist(ctx context.Context, name string, take func(context.Context) error) error {
	deadline := r.now().Add(r.options.Patience)
	for {
		err := take(r.as(ctx, name))
		if err == nil || !passing(activities.KindOf(err)) || !r.now().Before(deadline) {
			return err
		}
		r.tell(Event{Step: name, Sentence: "again: " + err.Error()})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}

func passing(kind activities.Kind) bool {
	switch kind {
	case activities.Transient, activities.Throttled, activities.Uncertain:
		return true
	}
	return false
}

func (r *Rescue) tell(event Event) {
	if r.options.Tell != nil {
		r.options.Tell(event)
	}
}

// count writes a number of addresses.
func count(n int) string {
	if n == 1 {
		return "1 address is"
	}
	return fmt.Sprintf("%d addresses are", n)
}

// idle is the outcome where no rotation is in hand.
func (r *Rescue) idle(head rotate.Head) Outcome {
	out := r.outcome(head)
	out.Acted = false
	switch {
	case head.Rotation == "":
		out.Sentence = "castellan never rotated it: there is nothing to rescue"
	case head.State == activities.Quarantined:
		out.Sentence = "the last rotation stopped for a person: " + head.Sentence
	default:
		out.Sentence = fmt.Sprintf("no rotation is in hand: %s ended as %s", head.Rotation, head.State)
	}
	return out
}

func (r *Rescue) outcome(head rotate.Head) Outcome {
	return Outcome{
		Target: r.target.Name, Rotation: head.Rotation, State: head.State, Fingerprint: head.Candidate.Fingerprint,
		Sentence: head.Sentence, Acted: true,
	}
}

// stuck is the outcome of a rescue that has to be run again.
func (r *Rescue) stuck(ctx context.Context, missing []activities.Straggler, cause error) (Outcome, error) {
	head, err := r.steps.Head(ctx, r.target.Name)
	if err != nil && cause == nil {
		cause = err
	}
	out := r.outcome(head)
	out.Stragglers = missing
	if len(missing) > 0 {
		var names []string
		for _, s := range missing {
			names = append(names, strings.TrimSpace(s.Consumer+" "+s.Address))
		}
		out.Sentence = "waiting for " + strings.Join(names, ", ")
		cause = activities.Errorf(activities.Failed, "%s not proven: %s", count(len(missing)), strings.Join(names, ", "))
	}
	return out, cause
}
