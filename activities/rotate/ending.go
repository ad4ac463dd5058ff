package rotate

import (
	"context"
	"strconv"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// Retire erases the previous credential. It refuses without evidence that every consumer converged.
func (s *Steps) Retire(ctx context.Context, request activities.RetireRequest) (activities.Proof, error) {
	kind, rotation, head, err := s.begin(ctx, request.StepRequest)
	if err != nil {
		return activities.Proof{}, err
	}
	if head.State == activities.Retired || head.State == activities.ProvenDead {
		return activities.Proof{At: s.now().UTC(), Sentence: head.Sentence}, nil
	}
	if err := late(head, request.StepRequest); err != nil {
		return activities.Proof{}, err
	}
	if len(request.Converged) == 0 {
		return activities.Proof{}, activities.Errorf(activities.Invalid, "retire the credential before %s: no evidence that the consumers converged", request.Rotation)
	}
	// From here on only forward: a rollback would find nothing to restore.
	if head, err = s.heads.advance(ctx, request.StepRequest, activities.Converged, nil); err != nil {
		return activities.Proof{}, err
	}
	final := activities.Retired
	if request.Dead {
		final = activities.ProvenDead
	}
	var proof activities.Proof
	intent := map[string]string{record.FactPrevious: head.Previous.Fingerprint}
	for i, id := range request.Converged {
		intent["evidence."+strconv.Itoa(i)] = id
	}
	id, err := s.journal.effect(ctx, request.StepRequest, "", intent, func() (map[string]string, error) {
		done, err := kind.Retire(ctx, rotation)
		if err != nil {
			return nil, err
		}
		proof = done
		facts := map[string]string{record.FactState: string(final), record.FactSentence: proof.Sentence, record.FactPrevious: head.Previous.Fingerprint}
		addCandidate(facts, head.Candidate)
		if due := s.dueNext(rotation, head); !due.IsZero() {
			facts[record.FactDueAt] = due.UTC().Format(time.RFC3339Nano)
		}
		return facts, s.close(ctx, request.StepRequest, final, proof.Sentence)
	})
	if err != nil {
		return proof, err
	}
	proof.Evidence = append(proof.Evidence, id)
	return proof, nil
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
		head.Sentence = sentence
		if state == activities.Retired || state == activities.ProvenDead {
			head.Current = Known{Epoch: head.Of, Fingerprint: head.Candidate.Fingerprint, Serial: head.Candidate.Serial, NotAfter: head.Candidate.NotAfter}
			head.Previous = Known{}
		}
		for _, ended := range head.History {
			if ended.Rotation == head.Rotation {
				return
			}
		}
		head.History = append(head.History, Ended{Rotation: head.Rotation, Epoch: head.Of, Run: head.Run, State: state, Sentence: sentence})
		if extra := len(head.History) - remembered; extra > 0 {
			head.History = head.History[extra:]
		}
	})
	return err
}

// Prove revokes the previous credential and proves it refused. It runs before Retire, because the
// proof needs the previous key.
func (s *Steps) Prove(ctx context.Context, request activities.StepRequest) (activities.DeathResult, error) {
	kind, rotation, head, err := s.begin(ctx, request)
	if err != nil {
		return activities.DeathResult{}, err
	}
	if err := late(head, request); err != nil {
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
		return facts, nil
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
		return map[string]string{record.FactSentence: proof.Sentence}, nil
	})
	if err != nil {
		return result, err
	}
	result.Proof.Evidence = append(result.Proof.Evidence, id)
	return result, nil
}

// End closes a rotation that does not reach RETIRED: aborted, rolled back or quarantined. What was
// never published is discarded; a quarantined rotation keeps everything for the person who looks.
func (s *Steps) End(ctx context.Context, request activities.EndRequest) (activities.Proof, error) {
	kind, rotation, head, err := s.begin(ctx, request.StepRequest)
	if err != nil {
		return activities.Proof{}, err
	}
	if head.State == request.State {
		return activities.Proof{At: s.now().UTC(), Sentence: head.Sentence}, nil
	}
	discard := request.State == activities.Aborted || request.State == activities.RolledBack
	if request.State == activities.Aborted && len(head.Published) > 0 && head.Epoch == head.Of {
		return activities.Proof{}, activities.Errorf(activities.Invalid, "abort %s: it may be published already; roll back first", request.Rotation)
	}
	id, err := s.journal.effect(ctx, request.StepRequest, string(request.State), nil, func() (map[string]string, error) {
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
