package rotate

import (
	"context"
	"slices"
	"strconv"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// Retire erases the previous credential. It refuses without evidence that every consumer converged, and
// whatever the caller says, before the head knows the candidate published everywhere.
func (s *Steps) Retire(ctx context.Context, request activities.RetireRequest) (activities.Proof, error) {
	kind, rotation, head, err := s.begin(ctx, request.StepRequest)
	if err != nil {
		return activities.Proof{}, err
	}
	if head.State == activities.Retired || head.State == activities.ProvenDead {
		return s.over(ctx, request.StepRequest, "", head, s.retired(rotation, head, head.State, head.Sentence))
	}
	if err := late(head, request.StepRequest); err != nil {
		return activities.Proof{}, err
	}
	if len(request.Converged) == 0 {
		return activities.Proof{}, activities.Errorf(activities.Invalid, "retire the credential before %s: no evidence that the consumers converged", request.Rotation)
	}
	if err := s.ripe(head, request.StepRequest); err != nil {
		return activities.Proof{}, err
	}
	if head.Trigger.Compromise && !head.Sought {
		return activities.Proof{}, activities.Errorf(activities.Invalid, "retire the credential before %s: it is compromised, and its key is needed to prove it refused first", request.Rotation)
	}
	// From here on only forward: a rollback would find nothing to restore.
	if head, err = s.heads.advance(ctx, request.StepRequest, activities.Converged, nil); err != nil {
		return activities.Proof{}, err
	}
	final := activities.Retired
	if request.Dead && head.Dead {
		final = activities.ProvenDead
	}
	var proof activities.Proof
	var unerased error
	intent := map[string]string{record.FactPrevious: head.Previous.Fingerprint}
	for i, id := range request.Converged {
		intent["evidence."+strconv.Itoa(i)] = id
	}
	id, err := s.journal.effect(ctx, request.StepRequest, "", intent, func() (map[string]string, error) {
		done, err := kind.Retire(ctx, rotation)
		if err != nil {
			unerased = err
			return nil, err
		}
		proof = done
		facts := s.retired(rotation, head, final, proof.Sentence)
		facts[record.FactPrevious] = head.Previous.Fingerprint
		return facts, s.close(ctx, request.StepRequest, final, proof.Sentence)
	})
	if unerased != nil {
		// Everybody uses the candidate, so this is no failed rotation: it is tried for as long as it takes.
		return proof, &activities.Error{Kind: activities.Transient, Detail: unerased.Error(), Cause: unerased}
	}
	if err != nil {
		return proof, err
	}
	proof.Evidence = append(proof.Evidence, id)
	return proof, nil
}

// ripe refuses what may only happen once the candidate is visible everywhere. The head and this worker's
// own configuration say so, not the request: who can write requests must not be able to take a credential
// away that is in use.
func (s *Steps) ripe(head Head, request activities.StepRequest) error {
	if order[head.State] < order[activities.Published] {
		return activities.Errorf(activities.Invalid, "finish %s: the candidate is %s and was not published", request.Rotation, head.State)
	}
	target, _, err := s.resolve(request.Target)
	if err != nil {
		return err
	}
	for _, wave := range target.Waves {
		for _, delivery := range wave.Deliveries {
			if _, began := head.Delivered[delivery]; began && !slices.Contains(head.Published, delivery) {
				return activities.Errorf(activities.Invalid, "finish %s: the candidate was not published through %q", request.Rotation, delivery)
			}
		}
	}
	return nil
}

// retired lists what the evidence says of a rotation that has retired the previous credential.
func (s *Steps) retired(rotation Rotation, head Head, state activities.State, sentence string) map[string]string {
	facts := map[string]string{record.FactState: string(state), record.FactSentence: sentence}
	addCandidate(facts, head.Candidate)
	if due := s.dueNext(rotation, head); !due.IsZero() {
		facts[record.FactDueAt] = due.UTC().Format(time.RFC3339Nano)
	}
	return facts
}

// over answers a step that has ended its rotation before. The attempt that did may not have come to
// recording it.
func (s *Steps) over(ctx context.Context, request activities.StepRequest, suffix string, head Head, facts map[string]string) (activities.Proof, error) {
	id, err := s.journal.outcome(ctx, request, suffix, facts)
	if err != nil {
		return activities.Proof{}, err
	}
	return activities.Proof{At: s.now().UTC(), Sentence: head.Sentence, Evidence: []string{id}}, nil
}

// dueNext asks the policy when the candidate, now current, will be due.
func (s *Steps) dueNext(rotation Rotation, head Head) time.Time {
	target, ok := s.Targets(rotation.Target)
	if !ok {
		return time.Time{}
	}
	due, ok := s.NextDue(Situation{
		Target:      target,
		Observation: Observation{Current: head.Candidate, Exists: true, Epoch: head.Of},
		Now:         s.now(),
	})
	if !ok {
		return time.Time{}
	}
	return due
}

// close ends the rotation in the head: the candidate becomes current, or is forgotten.
func (s *Steps) close(ctx context.Context, request activities.StepRequest, state activities.State, sentence string) error {
	_, err := s.heads.advance(ctx, request, state, func(head *Head) {
		if state == activities.Retired || state == activities.ProvenDead {
			head.Current = Known{Epoch: head.Of, Fingerprint: head.Candidate.Fingerprint, Serial: head.Candidate.Serial, NotAfter: head.Candidate.NotAfter}
			head.Previous, head.Leftover = Known{}, nil
		}
		head.end(state, sentence)
	})
	return err
}

// Prove revokes the previous credential and proves it refused. It runs before Retire, because the
// proof needs the previous key. It refuses where no compromise was reported, and before the candidate is
// published everywhere: a revocation cannot be taken back.
func (s *Steps) Prove(ctx context.Context, request activities.StepRequest) (activities.DeathResult, error) {
	kind, rotation, head, err := s.begin(ctx, request)
	if err != nil {
		return activities.DeathResult{}, err
	}
	if err := late(head, request); err != nil {
		return activities.DeathResult{}, err
	}
	if !head.Trigger.Compromise {
		return activities.DeathResult{}, activities.Errorf(activities.Invalid, "revoke the credential before %s: nobody reported it compromised", request.Rotation)
	}
	if err := s.ripe(head, request); err != nil {
		return activities.DeathResult{}, err
	}
	// From here on only forward: a rollback would put a revoked credential back.
	if head, err = s.heads.advance(ctx, request, activities.Converged, nil); err != nil {
		return activities.DeathResult{}, err
	}
	var result activities.DeathResult
	intent := map[string]string{record.FactPrevious: head.Previous.Fingerprint, record.FactSerial: head.Previous.Serial}
	id, err := s.journal.effect(ctx, request, "", intent, func() (map[string]string, error) {
		found, err := kind.ProveDead(ctx, rotation)
		if err != nil {
			return nil, err
		}
		result = found
		facts := map[string]string{record.FactSentence: result.Proof.Sentence, record.FactPrevious: head.Previous.Fingerprint}
		for i, consumer := range result.NotProvable {
			facts["not_provable."+strconv.Itoa(i)] = consumer
		}
		_, err = s.heads.advance(ctx, request, activities.Converged, func(head *Head) { head.Sought, head.Dead = true, result.Proven })
		return facts, err
	})
	if err != nil {
		return result, err
	}
	result.Proof.Evidence = append(result.Proof.Evidence, id)
	return result, nil
}

// Rollback makes the previous credential visible again wherever the candidate may have come, under a
// newer epoch, so that a late publication of the candidate is refused at the target.
func (s *Steps) Rollback(ctx context.Context, request activities.StepRequest) (activities.PublishResult, error) {
	kind, rotation, head, err := s.begin(ctx, request)
	if err != nil {
		return activities.PublishResult{}, err
	}
	if head.State.Ended() || order[head.State] >= order[activities.Converged] {
		return activities.PublishResult{}, activities.Errorf(activities.Invalid, "roll back %s: it is %s, only forward is possible", request.Rotation, head.State)
	}
	head, err = s.heads.advance(ctx, request, activities.Planned, func(head *Head) {
		if head.Epoch == head.Of {
			head.Epoch++
		}
	})
	if err != nil {
		return activities.PublishResult{}, err
	}
	var result activities.PublishResult
	intent := map[string]string{record.FactPrevious: head.Previous.Fingerprint, record.FactFingerprint: head.Candidate.Fingerprint}
	id, err := s.journal.effect(ctx, request, "", intent, func() (map[string]string, error) {
		proof, err := kind.Restore(ctx, rotation, head.Epoch, head.Published)
		if err != nil {
			return nil, err
		}
		result.Proof = proof
		_, err = s.heads.advance(ctx, request, activities.Planned, func(head *Head) { head.Restored = true })
		return map[string]string{record.FactSentence: proof.Sentence}, err
	})
	if err != nil && activities.KindOf(err) == activities.Conflict {
		// A foreign writer was there. Its value stays; a person decides.
		return result, &activities.Error{Kind: activities.Conflict, Detail: err.Error(), Cause: err, Final: true}
	}
	if err != nil {
		return result, err
	}
	result.Proof.Evidence = append(result.Proof.Evidence, id)
	return result, nil
}

// End closes a rotation that does not reach RETIRED: aborted, rolled back or quarantined. What was
// never published is discarded; a quarantined rotation keeps everything for the person who looks, and one
// that its own candidate's life has overtaken keeps everything for the rotation that follows.
func (s *Steps) End(ctx context.Context, request activities.EndRequest) (activities.Proof, error) {
	kind, rotation, head, err := s.begin(ctx, request.StepRequest)
	if err != nil {
		return activities.Proof{}, err
	}
	suffix := string(request.State)
	outlived := request.State == activities.Superseded
	switch {
	case request.State != activities.Aborted && request.State != activities.RolledBack && request.State != activities.Quarantined && !outlived:
		return activities.Proof{}, activities.Errorf(activities.Invalid, "end %s as %q: want %s, %s, %s or %s", request.Rotation, request.State,
			activities.Aborted, activities.RolledBack, activities.Quarantined, activities.Superseded)
	case head.State == request.State:
		return s.over(ctx, request.StepRequest, suffix, head, map[string]string{record.FactState: suffix, record.FactSentence: head.Sentence})
	case head.State.Ended():
		// What follows would discard a key that is in use by now.
		return activities.Proof{}, activities.Errorf(activities.Fenced, "end %s as %s: it ended already: %s", request.Rotation, request.State, head.State)
	case outlived && (head.State != activities.Published || !head.Candidate.Outlived(s.now())):
		return activities.Proof{}, activities.Errorf(activities.Invalid, "end %s as superseded: it is %s and its candidate has time left", request.Rotation, head.State)
	case request.State == activities.Aborted && len(head.Published) > 0 && !head.Restored:
		return activities.Proof{}, activities.Errorf(activities.Invalid, "abort %s: it may be published already; roll back first", request.Rotation)
	case request.State == activities.RolledBack && !head.Restored:
		return activities.Proof{}, activities.Errorf(activities.Invalid, "end %s as rolled back: the previous was not put back everywhere", request.Rotation)
	}
	discard := request.State != activities.Quarantined && !outlived
	id, err := s.journal.effect(ctx, request.StepRequest, suffix, nil, func() (map[string]string, error) {
		if discard {
			if err := kind.Discard(ctx, rotation); err != nil {
				return nil, err
			}
		}
		facts := map[string]string{record.FactState: string(request.State), record.FactSentence: request.Reason}
		return facts, s.close(ctx, request.StepRequest, request.State, request.Reason)
	})
	if err != nil {
		return activities.Proof{}, err
	}
	return activities.Proof{At: s.now().UTC(), Sentence: request.Reason, Evidence: []string{id}}, nil
}
