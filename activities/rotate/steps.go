package rotate

import (
	"context"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/activities/store"
)

// Dependencies are what the saga's privileged steps are made of.
type Dependencies struct {
	Store     store.Store
	Recorder  record.Recorder
	Kinds     map[string]Kind
	Targets   func(name string) (Target, bool)
	Elsewhere func(name string) bool // another host's worker drives the target; nil: none is elsewhere
	Decide    func(Situation) activities.Verdict
	NextDue   func(Situation) (time.Time, bool) // when the target is worth deciding about again
	Now       func() time.Time
}

// New wires the saga's privileged steps.
func New(d Dependencies) *Steps {
	h := heads{store: d.Store, now: d.Now}
	return &Steps{
		Kinds: d.Kinds, Targets: d.Targets, Elsewhere: d.Elsewhere, Decide: d.Decide, NextDue: d.NextDue,
		heads:   h,
		groups:  groups{store: d.Store, heads: h, now: d.Now},
		journal: journal{recorder: d.Recorder, now: d.Now},
		now:     d.Now,
	}
}

// Head returns what the store says of a target, for rescue and for display.
func (s *Steps) Head(ctx context.Context, target string) (Head, error) {
	head, _, err := s.heads.read(ctx, target)
	return head, err
}

// begin checks that the step's rotation is still in hand and returns what the step needs.
func (s *Steps) begin(ctx context.Context, request activities.StepRequest) (Kind, Rotation, Head, error) {
	_, kind, err := s.resolve(request.Target)
	if err != nil {
		return nil, Rotation{}, Head{}, err
	}
	head, _, err := s.heads.held(ctx, request)
	if err != nil {
		return nil, Rotation{}, Head{}, err
	}
	rotation := Rotation{
		Target: request.Target, ID: request.Rotation, Epoch: request.Epoch,
		Compromise: head.Trigger.Compromise, Previous: head.Previous, Expected: head.Delivered, Leftover: head.Leftover,
	}
	return kind, rotation, head, nil
}

// late refuses a forward step of a rotation whose fence has moved: it was rolled back, or has ended.
func late(head Head, request activities.StepRequest) error {
	if head.Epoch != request.Epoch || head.State.Ended() {
		return activities.Errorf(activities.Fenced, "rotation %s cannot go on: it is %s and the fence is at epoch %d", request.Rotation, head.State, head.Epoch)
	}
	return nil
}

// Mint makes the candidate durable.
func (s *Steps) Mint(ctx context.Context, request activities.StepRequest) (activities.Candidate, error) {
	return s.candidate(ctx, request, activities.Minted, Kind.Mint)
}

// Set makes the target know the candidate.
func (s *Steps) Set(ctx context.Context, request activities.StepRequest) (activities.Candidate, error) {
	return s.candidate(ctx, request, activities.Set, Kind.Set)
}

func (s *Steps) candidate(ctx context.Context, request activities.StepRequest, state activities.State,
	act func(Kind, context.Context, Rotation) (activities.Candidate, error)) (activities.Candidate, error) {
	kind, rotation, head, err := s.begin(ctx, request)
	if err != nil {
		return activities.Candidate{}, err
	}
	if err := late(head, request); err != nil {
		return activities.Candidate{}, err
	}
	var candidate activities.Candidate
	_, err = s.journal.effect(ctx, request, "", nil, func() (map[string]string, error) {
		found, err := act(kind, ctx, rotation)
		if err != nil {
			return nil, err
		}
		candidate = found
		facts := map[string]string{record.FactState: string(state)}
		addCandidate(facts, candidate)
		_, err = s.heads.advance(ctx, request, state, func(head *Head) { head.Candidate = candidate })
		return facts, err
	})
	return candidate, err
}

// Test proves the candidate usable before any consumer sees it.
func (s *Steps) Test(ctx context.Context, request activities.StepRequest) (activities.Proof, error) {
	kind, rotation, head, err := s.begin(ctx, request)
	if err != nil {
		return activities.Proof{}, err
	}
	if err := late(head, request); err != nil {
		return activities.Proof{}, err
	}
	proof, err := kind.Test(ctx, rotation)
	facts := map[string]string{record.FactState: string(activities.Tested), record.FactSentence: proof.Sentence}
	if err != nil {
		if activities.KindOf(err) == activities.Failed {
			if _, recordErr := s.journal.fact(ctx, request, "failed", "failed", map[string]string{record.FactSentence: err.Error()}); recordErr != nil {
				return activities.Proof{}, recordErr
			}
		}
		return activities.Proof{}, err
	}
	id, err := s.journal.fact(ctx, request, "", "ok", facts)
	if err != nil {
		return activities.Proof{}, err
	}
	proof.Evidence = append(proof.Evidence, id)
	_, err = s.heads.advance(ctx, request, activities.Tested, nil)
	return proof, err
}

// Publish makes the candidate visible through the named deliveries. The head remembers the deliveries
// before the first is touched, so that a rollback knows how far a crashed attempt may have come.
func (s *Steps) Publish(ctx context.Context, request activities.PublishRequest) (activities.PublishResult, error) {
	kind, rotation, head, err := s.begin(ctx, request.StepRequest)
	if err != nil {
		return activities.PublishResult{}, err
	}
	if err := late(head, request.StepRequest); err != nil {
		return activities.PublishResult{}, err
	}
	if order[head.State] < order[activities.Tested] {
		return activities.PublishResult{}, activities.Errorf(activities.Invalid, "publish %s: the candidate is %s and was not tested", request.Rotation, head.State)
	}
	if len(union(head.Published, request.Deliveries)) > len(head.Published) {
		// The candidate may have waited since it was tested: for a window, for a person, for stragglers.
		if _, err := kind.Test(ctx, rotation); err != nil {
			return activities.PublishResult{}, err
		}
	}
	if _, err := s.heads.advance(ctx, request.StepRequest, activities.Tested, func(head *Head) {
		head.Published = union(head.Published, request.Deliveries)
	}); err != nil {
		return activities.PublishResult{}, err
	}
	var result activities.PublishResult
	intent := map[string]string{factDeliveries: strings.Join(request.Deliveries, ","), record.FactFingerprint: head.Candidate.Fingerprint}
	id, err := s.journal.effect(ctx, request.StepRequest, suffixOf(request.Deliveries), intent, func() (map[string]string, error) {
		proof, err := kind.Publish(ctx, rotation, request.Deliveries)
		if err != nil {
			return nil, err
		}
		result.Proof = proof
		facts := map[string]string{record.FactState: string(activities.Published), record.FactSentence: proof.Sentence, record.FactPrevious: head.Previous.Fingerprint}
		addCandidate(facts, head.Candidate)
		_, err = s.heads.advance(ctx, request.StepRequest, activities.Published, nil)
		return facts, err
	})
	if activities.KindOf(err) == activities.Conflict && err != nil {
		// A foreign writer changed the target since the rotation began. Its value stays; a person decides.
		return result, &activities.Error{Kind: activities.Conflict, Detail: err.Error(), Cause: err, Final: true}
	}
	if err != nil {
		return result, err
	}
	result.Proof.Evidence = append(result.Proof.Evidence, id)
	return result, nil
}

// suffixOf names the deliveries in a step's name, which has a bounded length.
func suffixOf(deliveries []string) string {
	if text := strings.Join(deliveries, "+"); len(text) <= 200 {
		return text
	}
	return digest(deliveries, "")
}

func union(have, more []string) []string {
	out := append([]string(nil), have...)
	for _, name := range more {
		found := false
		for _, known := range out {
			found = found || known == name
		}
		if !found {
			out = append(out, name)
		}
	}
	return out
}
