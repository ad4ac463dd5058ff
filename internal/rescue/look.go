package rescue

import (
	"context"
	"fmt"
	"strings"

	"castellan.dev/activities"
	"castellan.dev/activities/rotate"
)

// Situation is what is true of a target, and what rescue would do about it.
type Situation struct {
	Target     string                 `json:"target"`
	Rotation   activities.RotationID  `json:"rotation,omitempty"`
	Epoch      activities.Epoch       `json:"epoch,omitempty"`
	Fence      activities.Epoch       `json:"fence,omitempty"` // the highest epoch; above Epoch once a rollback began
	State      activities.State       `json:"state,omitempty"`
	Open       bool                   `json:"open"`
	Candidate  activities.Candidate   `json:"candidate,omitzero"`
	Previous   rotate.Known           `json:"previous,omitzero"`
	Published  []string               `json:"published,omitempty"` // deliveries that the candidate may have reached
	Delivered  map[string]string      `json:"delivered,omitempty"` // delivery to the fingerprint that is visible there
	Consumers  []activities.Straggler `json:"consumers,omitempty"` // what each address uses, when a candidate exists
	Compromise bool                   `json:"compromise,omitempty"`
	Sentence   string                 `json:"sentence,omitempty"`
	Forward    []string               `json:"forward,omitempty"`  // steps that would finish the rotation
	Rollback   []string               `json:"rollback,omitempty"` // steps that would take it back
}

// Look says what is true, from the store, the target and the consumers. It changes nothing.
func (r *Rescue) Look(ctx context.Context) (Situation, error) {
	head, err := r.steps.Head(ctx, r.target.Name)
	if err != nil {
		return Situation{}, err
	}
	kind, ok := r.steps.Kinds[r.target.Kind]
	if !ok {
		return Situation{}, activities.Errorf(activities.Invalid, "target %q has kind %q, which rescue does not know", r.target.Name, r.target.Kind)
	}
	observation, err := kind.Observe(ctx, r.target.Name)
	if err != nil {
		return Situation{}, fmt.Errorf("observe %q: %w", r.target.Name, err)
	}
	s := Situation{
		Target: r.target.Name, Rotation: head.Rotation, Epoch: head.Of, Fence: head.Epoch, State: head.State, Open: head.Open(),
		Candidate: head.Candidate, Previous: head.Previous, Published: head.Published, Delivered: observation.Delivered,
		Compromise: head.Trigger.Compromise, Sentence: head.Sentence,
	}
	if !s.Open {
		return s, nil
	}
	s.Forward, s.Rollback = r.forwardSteps(head), r.rollbackSteps(head)
	if head.Candidate.Fingerprint == "" {
		return s, nil
	}
	seen, err := r.converge(ctx, r.request(head), head.Candidate.Fingerprint, head.Previous.Fingerprint, r.everybody(), 0, false)
	s.Consumers = seen.Seen
	return s, err
}

// everybody lists the consumers of all waves.
func (r *Rescue) everybody() []string {
	var list []string
	for _, wave := range r.target.Waves {
		list = append(list, wave.Consumers...)
	}
	return list
}

// order ranks the states of a rotation that moves forward.
var order = map[activities.State]int{
	activities.Planned: 1, activities.Minted: 2, activities.Set: 3, activities.Tested: 4, activities.Published: 5, activities.Converged: 6,
}

// returning reports whether a rollback has begun: then forward is fenced off for good.
func returning(head rotate.Head) bool { return head.Epoch != head.Of }

func (r *Rescue) forwardSteps(head rotate.Head) []string {
	if returning(head) {
		return nil
	}
	var list []string
	for _, step := range []struct {
		reaches activities.State
		text    string
	}{
		{activities.Minted, "mint the candidate"},
		{activities.Set, "have the candidate signed"},
		{activities.Tested, "test the candidate"},
	} {
		if order[head.State] < order[step.reaches] {
			list = append(list, step.text)
		}
	}
	for _, wave := range r.target.Waves {
		if order[head.State] < order[activities.Converged] {
			list = append(list, "publish through "+strings.Join(wave.Deliveries, ", "))
		}
		if len(wave.Consumers) > 0 {
			list = append(list, "prove that "+strings.Join(wave.Consumers, ", ")+" use the candidate")
		}
	}
	if head.Trigger.Compromise {
		list = append(list, "revoke the previous and prove it refused")
	}
	return append(list, "retire the previous")
}

func (r *Rescue) rollbackSteps(head rotate.Head) []string {
	switch {
	case order[head.State] >= order[activities.Converged]:
		return nil
	case len(head.Published) == 0:
		return []string{"discard the candidate"}
	case head.Previous.Fingerprint == "":
		return []string{"discard the candidate; where it was published it stays, because there was nothing before"}
	}
	return []string{"put the previous back through " + strings.Join(head.Published, ", "), "prove that the consumers use it again", "discard the candidate"}
}
