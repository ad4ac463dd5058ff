package rotate

import (
	"context"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// Target is what the configuration says of a target, as far as the saga needs it.
type Target struct {
	Name      string
	Kind      string
	Host      string // the host whose privileged worker drives it; empty: any
	Observed  bool   // adopted observe-only: nothing is ever written
	Group     string // exclusion group; empty: none
	Waves     []activities.Wave
	CanaryFor time.Duration // how long a broken canary may stay broken before rollback
}

// Situation is what a decision is made from.
type Situation struct {
	Target      Target
	Observation Observation
	Trigger     activities.Trigger
	Open        bool      // a rotation is in hand already and only has to go on
	GroupHolder string    // another member of the exclusion group that rotates now; empty: none
	GroupLast   time.Time // when another member of the group last began
	GroupMember string    // which one it was
	Now         time.Time
}

// Steps are the saga's activities in the privileged zone. They are written once: what differs between
// kinds of credential is behind Kind.
type Steps struct {
	Kinds     map[string]Kind
	Targets   func(name string) (Target, bool)
	Elsewhere func(name string) bool
	Decide    func(Situation) activities.Verdict
	NextDue   func(Situation) (time.Time, bool)

	heads   heads
	groups  groups
	journal journal
	now     func() time.Time
}

// Open answers with the rotation that this run shall drive: the one in hand if there is one, otherwise
// a new one if the target is due. The run id makes the answer the same after a retry, a workflow reset
// and an engine restored from backup.
func (s *Steps) Open(ctx context.Context, request activities.OpenRequest) (activities.Plan, error) {
	target, kind, err := s.resolve(request.Target)
	if err != nil {
		return activities.Plan{}, err
	}
	if s.Elsewhere != nil && s.Elsewhere(target.Name) {
		return activities.Plan{Kind: target.Kind, Host: target.Host}, nil // only the worker on that host can see it
	}
	head, version, err := s.heads.read(ctx, target.Name)
	if err != nil {
		return activities.Plan{}, err
	}
	if request.Rotation != "" {
		return s.standing(target, head, request.Rotation), nil
	}
	if plan, found := s.remembered(target, head, request.Run); found {
		if plan.State.Ended() {
			return plan, nil
		}
		// The attempt that opened it may not have come to recording it.
		return plan, s.opened(ctx, head)
	}
	observation, err := kind.Observe(ctx, target.Name)
	if err != nil {
		return activities.Plan{}, err
	}
	if head.State == activities.Quarantined && request.Trigger.Source != "operator" && request.Trigger.Source != "emergency" {
		verdict := activities.Verdict{Reason: "quarantined", Sentence: "the last rotation stopped for a person: " + head.Sentence}
		return s.decline(ctx, request, Situation{Target: target, Observation: observation, Now: s.now()}, verdict)
	}
	holder, last, member, err := s.groups.look(ctx, target.Group, target.Name)
	if err != nil {
		return activities.Plan{}, err
	}
	situation := Situation{
		Target: target, Observation: observation, Trigger: request.Trigger, Open: head.Open(),
		GroupHolder: holder, GroupLast: last, GroupMember: member, Now: s.now(),
	}
	verdict := s.Decide(situation)
	if target.Observed || !verdict.Due || verdict.Wait.After(s.now()) {
		return s.decline(ctx, request, situation, verdict)
	}
	if err := s.groups.take(ctx, target.Group, target.Name, holder); err != nil {
		return activities.Plan{}, err
	}
	head = s.allocate(target, head, request, observation)
	head.Verdict = verdict
	if err := s.heads.write(ctx, head, version); err != nil {
		return activities.Plan{}, err // a lost check-and-set is retried, and then finds what is in hand
	}
	return s.plan(target, head), s.opened(ctx, head)
}

// opened records that a rotation began, or that another run goes on with it: each with its own trigger.
func (s *Steps) opened(ctx context.Context, head Head) error {
	step := activities.StepRequest{Target: head.Target, Rotation: head.Rotation, Epoch: head.Of, Reason: head.Verdict.Sentence, Actor: head.Trigger.Actor}
	facts := map[string]string{
		record.FactState:         string(head.State),
		record.FactPrevious:      head.Previous.Fingerprint,
		record.FactTrigger:       head.Trigger.Source,
		record.FactTriggerActor:  head.Trigger.Actor,
		record.FactTriggerReason: head.Trigger.Reason,
		factReason:               head.Verdict.Reason,
	}
	suffix, what := "", "opened"
	if head.Resumed {
		suffix, what = "resumed/"+head.Run, "resumed"
	}
	_, err := s.journal.fact(ctx, step, suffix, what, facts)
	return err
}

// resolve finds the target and its kind in this worker's own configuration.
func (s *Steps) resolve(name string) (Target, Kind, error) {
	target, ok := s.Targets(name)
	if !ok {
		return Target{}, nil, activities.Errorf(activities.Invalid, "target %q is not in this worker's configuration", name)
	}
	kind, ok := s.Kinds[target.Kind]
	if !ok {
		return Target{}, nil, activities.Errorf(activities.Invalid, "target %q has kind %q, which this worker does not serve", name, target.Kind)
	}
	return target, kind, nil
}

// remembered finds the rotation that the run opened before, be it in hand or over.
func (s *Steps) remembered(target Target, head Head, run string) (activities.Plan, bool) {
	if head.Run == run && head.Rotation != "" {
		return s.plan(target, head), true
	}
	for _, ended := range head.History {
		if ended.Run == run {
			return activities.Plan{
				Verdict: activities.Verdict{Due: true, Sentence: ended.Sentence}, Rotation: ended.Rotation, Epoch: ended.Epoch,
				Kind: target.Kind, Host: target.Host, State: ended.State, Waves: target.Waves,
			}, true
		}
	}
	return activities.Plan{}, false
}

// standing tells how one rotation stands; a rotation that the head has forgotten has an empty plan.
func (s *Steps) standing(target Target, head Head, rotation activities.RotationID) activities.Plan {
	plan := s.plan(target, head)
	if head.Rotation == rotation {
		plan.Verdict.Sentence = head.Sentence
		return plan
	}
	for _, ended := range head.History {
		if ended.Rotation == rotation {
			plan.Rotation, plan.Epoch, plan.State = ended.Rotation, ended.Epoch, ended.State
			plan.Verdict.Sentence = ended.Sentence
			return plan
		}
	}
	return activities.Plan{}
}

// decline answers that nothing is to be done now, and notes what was observed, so that the inventory
// knows the certificate and its due date before castellan ever writes it.
func (s *Steps) decline(ctx context.Context, request activities.OpenRequest, situation Situation, verdict activities.Verdict) (activities.Plan, error) {
	target, observation := situation.Target, situation.Observation
	facts := observedFacts(observation)
	facts[factReason] = verdict.Reason
	facts[record.FactSentence] = verdict.Sentence
	if due, ok := s.NextDue(situation); ok {
		facts[record.FactDueAt] = due.UTC().Format(time.RFC3339Nano)
	}
	step := activities.StepRequest{Target: target.Name, Epoch: observation.Epoch, Reason: verdict.Sentence, Actor: request.Trigger.Actor}
	suffix := "observed/" + request.Run // each run looks once, and says when
	if _, err := s.journal.fact(ctx, step, suffix, "observed", facts); err != nil {
		return activities.Plan{}, err
	}
	return activities.Plan{Verdict: verdict, Kind: target.Kind, Host: target.Host, Observed: target.Observed, Waves: target.Waves}, nil
}

// allocate prepares the head for the rotation that begins, or hands the open one to this run.
func (s *Steps) allocate(target Target, head Head, request activities.OpenRequest, observation Observation) Head {
	head.Target, head.Kind = target.Name, target.Kind
	if head.Open() && observation.Epoch > head.Epoch {
		// The store was restored from before epochs that the target has seen. Nothing of this rotation can
		// reach the target any more.
		head.end(activities.Superseded, "the target has seen a newer epoch than the store")
	}
	head.Run = request.Run
	if head.Open() {
		// The run that opened it is gone (terminated, lost with the engine). Its rotation goes on
		// under the same id, so no second candidate is minted.
		trigger := request.Trigger
		trigger.Compromise = trigger.Compromise || head.Trigger.Compromise
		head.Trigger, head.Resumed = trigger, true
		return head
	}
	stale := []activities.Epoch{head.Current.Epoch, head.Previous.Epoch}
	if head.State == activities.Quarantined || head.State == activities.Superseded {
		stale = append(stale, head.Of)
	}
	head.Current = head.known(observation.Current)
	head.forgo(stale...)
	// The target may have seen epochs that a restored store has not.
	epoch := max(head.Epoch, observation.Epoch) + 1
	head.Epoch, head.Of = epoch, epoch
	head.Rotation = activities.NewRotationID(target.Name, epoch)
	head.Trigger = request.Trigger
	head.State = activities.Planned
	head.Opened = s.now().UTC()
	head.Candidate = activities.Candidate{}
	head.Published, head.Sentence = nil, ""
	head.Resumed, head.Restored, head.Sought, head.Dead = false, false, false, false
	head.Delivered = observation.Delivered
	head.Previous = head.Current
	return head
}

func (s *Steps) plan(target Target, head Head) activities.Plan {
	return activities.Plan{
		Verdict:     head.Verdict,
		Rotation:    head.Rotation,
		Epoch:       head.Of,
		Kind:        target.Kind,
		Host:        target.Host,
		State:       head.State,
		Waves:       target.Waves,
		Previous:    head.Previous.Fingerprint,
		Candidate:   head.Candidate,
		Compromise:  head.Trigger.Compromise,
		Published:   len(head.Published) > 0 || head.Epoch != head.Of, // or a rollback has begun, which has to end
		Reverting:   head.Open() && head.Epoch != head.Of,
		CanaryGrace: target.CanaryFor,
	}
}

func observedFacts(observation Observation) map[string]string {
	facts := map[string]string{}
	for name, value := range observation.Facts {
		facts[name] = value
	}
	addCandidate(facts, observation.Current)
	return facts
}

func addCandidate(facts map[string]string, c activities.Candidate) {
	set := func(name, value string) {
		if value != "" {
			facts[name] = value
		}
	}
	set(record.FactFingerprint, c.Fingerprint)
	set(record.FactSerial, c.Serial)
	set(record.FactKeyID, c.KeyID)
	set(record.FactKeyAlgorithm, c.Key)
	if c.Lost > 0 {
		facts[record.FactIssuedNotReceived] = "unknown"
	}
	if !c.NotAfter.IsZero() {
		facts[record.FactNotBefore] = c.NotBefore.UTC().Format(time.RFC3339)
		facts[record.FactNotAfter] = c.NotAfter.UTC().Format(time.RFC3339)
	}
}
