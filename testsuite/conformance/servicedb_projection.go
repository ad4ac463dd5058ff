package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"
)

// stamp writes a time as facts have it.
func stamp(at time.Time) string { return at.Format(time.RFC3339Nano) }

// project projects entries, each in a transaction of its own.
func (s *serviceDB) project(entries ...record.Entry) {
	s.Helper()
	for _, entry := range entries {
		s.must(s.db.Tx(s.Context(), func(tx *servicedb.Tx) error { return servicedb.Project(s.Context(), tx, entry) }))
	}
}

// outcome is an entry of target api's rotation of the epoch, minutes after noon.
func (s *serviceDB) outcome(epoch activities.Epoch, minutes int, state activities.State, facts ...string) record.Entry {
	entry := record.Entry{
		Workflow: "rotate/api", Run: "run-1", Step: fmt.Sprint("step-", minutes), Target: "api",
		Rotation: activities.NewRotationID("api", epoch), Epoch: epoch, Phase: record.Outcome, Actor: "privileged",
		At: s.noon.Add(time.Duration(minutes) * time.Minute), Facts: map[string]string{record.FactState: string(state)},
	}
	for i := 0; i < len(facts); i += 2 {
		entry.Facts[facts[i]] = facts[i+1]
	}
	return entry
}

// life is everything that a rotation leaves in the ledger, from opening to the end.
func (s *serviceDB) life() []record.Entry {
	stragglers, err := json.Marshal([]activities.Straggler{
		{Consumer: "web", Address: "10.0.0.1:443", Standing: activities.UsesPrevious, Serves: "aaaa", Since: s.noon.Add(5 * time.Minute), Detail: "serves the previous certificate"},
	})
	s.must(err)
	intent := s.outcome(7, 4, activities.Published) // a wish, not a fact
	intent.Phase = record.Intent
	return []record.Entry{
		s.outcome(7, 0, activities.Planned, record.FactTrigger, "operator", record.FactTriggerActor, "ana", record.FactTriggerReason, "because", record.FactPrevious, "aaaa"),
		s.outcome(7, 1, activities.Minted, record.FactKeyID, "k7"),
		s.outcome(7, 2, activities.Set, record.FactFingerprint, "bbbb", record.FactSerial, "77", record.FactNotBefore, stamp(s.noon),
			record.FactNotAfter, stamp(s.noon.Add(24*time.Hour)), record.FactKeyAlgorithm, "ecdsa-p256"),
		s.outcome(7, 3, activities.Tested),
		intent,
		s.outcome(7, 5, activities.Published),
		s.outcome(7, 6, activities.Published, record.FactStragglers, string(stragglers), record.FactFingerprint, "bbbb", record.FactConverged, `["mail"]`),
		s.outcome(7, 7, activities.Converged, record.FactStragglers, `[]`, record.FactFingerprint, "bbbb", record.FactConverged, `["mail","web"]`),
		s.outcome(7, 8, activities.Retired, record.FactSentence, "all consumers use the candidate; the previous key is erased",
			record.FactDueAt, stamp(s.noon.Add(16*time.Hour))),
	}
}

func (s *serviceDB) projection() {
	s.declare("api")
	life, noon := s.life(), s.noon
	s.project(record.Entry{Target: "api", Phase: record.Fact, At: noon.Add(-time.Hour), Facts: map[string]string{
		record.FactFingerprint: "aaaa", record.FactSerial: "66", record.FactNotAfter: stamp(noon.Add(time.Hour)), record.FactKeyAlgorithm: "rsa-2048",
	}})
	previous := servicedb.Credential{Fingerprint: "aaaa", Serial: "66", NotAfter: noon.Add(time.Hour), KeyAlgorithm: "rsa-2048"}
	candidate := servicedb.Credential{Fingerprint: "bbbb", Serial: "77", NotBefore: noon, NotAfter: noon.Add(24 * time.Hour), KeyAlgorithm: "ecdsa-p256"}
	s.same("what was observed", previous, s.target("api").Current)

	s.project(life[:5]...) // an intent to publish is the last
	if target := s.target("api"); target.Current != previous || target.LastState != activities.Tested {
		s.Errorf("before the publication: shows %q in state %q, want the previous credential, TESTED", target.Current.Fingerprint, target.LastState)
	}
	s.project(life[5:7]...)
	if got := s.target("api").Current; got != candidate {
		s.Errorf("after the publication: shows %q, want the candidate", got.Fingerprint)
	}
	got, err := s.db.Rotation(s.Context(), "api@7")
	s.must(err)
	if len(got.Stragglers) != 1 || got.Stragglers[0].Address != "10.0.0.1:443" || !got.Ended.IsZero() {
		s.Errorf("open rotation ended at %v with stragglers %v", got.Ended, got.Stragglers)
	}

	s.project(life[7:]...)
	got, err = s.db.Rotation(s.Context(), "api@7")
	s.must(err)
	s.same("rotation", servicedb.Rotation{
		ID: "api@7", Target: "api", Epoch: 7, State: activities.Retired, StateAt: noon.Add(8 * time.Minute),
		Trigger:  activities.Trigger{Source: "operator", Actor: "ana", Reason: "because"},
		Workflow: "rotate/api", Run: "run-1", Started: noon, Updated: noon.Add(8 * time.Minute), Published: noon.Add(5 * time.Minute), Ended: noon.Add(8 * time.Minute),
		Candidate: candidate, KeyID: "k7", Previous: previous, Sentence: "all consumers use the candidate; the previous key is erased",
	}, got)
	target := s.target("api")
	if target.LastRotation != "api@7" || target.LastEpoch != 7 || target.LastState != activities.Retired || !target.DueAt.Equal(noon.Add(16*time.Hour)) {
		s.Errorf("target shows rotation %q, epoch %d, state %q, due at %v", target.LastRotation, target.LastEpoch, target.LastState, target.DueAt)
	}
	if _, err := s.db.Rotation(s.Context(), "api@8"); activities.KindOf(err) != activities.NotFound {
		s.Errorf("unknown rotation: %v, want not_found", err)
	}
}

// order projects the same life in many orders, with repetitions, each for a target of its own, and wants the
// same rows of every one.
func (s *serviceDB) order() {
	type rows struct {
		Target    servicedb.Target
		Rotation  servicedb.Rotation
		Consumers []servicedb.Consumer
	}
	life := s.life()
	project := func(name string, order []int) rows {
		for _, i := range order {
			entry := life[i]
			entry.Target, entry.Rotation, entry.Facts = name, activities.NewRotationID(name, entry.Epoch), maps.Clone(entry.Facts)
			s.project(entry)
		}
		rotation, err := s.db.Rotation(s.Context(), activities.NewRotationID(name, 7))
		s.must(err)
		consumers, err := s.db.Consumers(s.Context(), name)
		s.must(err)
		r := rows{s.target(name), rotation, consumers}
		r.Target.Name, r.Target.LastRotation, r.Rotation.ID, r.Rotation.Target = "", "", "", ""
		// Since and the addresses are what was seen first; only the standing is promised in any order.
		for i := range r.Consumers {
			r.Consumers[i].Target, r.Consumers[i].Since = "", time.Time{}
		}
		return r
	}
	straight := make([]int, len(life))
	for i := range straight {
		straight[i] = i
	}
	want := project("straight", straight)
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 40 {
		order := append(random.Perm(len(life)), random.Perm(len(life))[:3]...) // some come twice
		got := project(fmt.Sprint("shuffled-", n), order)
		s.same(fmt.Sprint("order ", order), want, got)
		if s.Failed() {
			return
		}
	}
}

func (s *serviceDB) lateEpoch() {
	s.declare("api")
	s.project(s.life()...)
	s.project(s.outcome(7, 500, activities.Tested)) // a zombie of an earlier step
	if got := s.target("api"); got.LastState != activities.Retired {
		s.Errorf("state %q after a late TESTED, want RETIRED", got.LastState)
	}
	s.project(s.outcome(8, 10, activities.Published, record.FactFingerprint, "cccc", record.FactDueAt, stamp(s.noon.Add(99*time.Hour))))
	// A zombie of epoch 7 wakes up, with a clock that is ahead.
	s.project(s.outcome(7, 600, activities.ProvenDead, record.FactFingerprint, "dddd", record.FactDueAt, stamp(s.noon)))
	target := s.target("api")
	if target.Current.Fingerprint != "cccc" || target.LastEpoch != 8 || target.LastState != activities.Published || !target.DueAt.Equal(s.noon.Add(99*time.Hour)) {
		s.Errorf("target shows %q of epoch %d in state %q due at %v, want what epoch 8 left", target.Current.Fingerprint, target.LastEpoch, target.LastState, target.DueAt)
	}
}

func (s *serviceDB) rollback() {
	s.declare("api")
	life := s.life()
	s.project(life[:6]...)
	rolled := s.outcome(7, 9, activities.RolledBack, record.FactSentence, "the canary did not verify")
	rolled.Epoch = 8 // a rollback is a publication of the previous credential under a newer epoch
	s.project(rolled, life[5])
	if got := s.target("api"); got.Current.Fingerprint != "aaaa" || got.LastState != activities.RolledBack {
		s.Errorf("shows %q in state %q, want the previous credential, ROLLED_BACK", got.Current.Fingerprint, got.LastState)
	}
	got, err := s.db.Rotation(s.Context(), "api@7")
	s.must(err)
	if got.Epoch != 7 || got.State != activities.RolledBack || got.Sentence != "the canary did not verify" || got.Ended.IsZero() {
		s.Errorf("rotation of epoch %d is %q, %q, ended at %v", got.Epoch, got.State, got.Sentence, got.Ended)
	}
}

func (s *serviceDB) unreadable() {
	s.project(s.outcome(1, 0, "NO_SUCH_STATE", record.FactNotAfter, "tomorrow", record.FactFingerprint, "ff\x00ff\xff", record.FactStragglers, `{"not":"a list"`,
		record.FactSightings, `[{"consumer":"a\u0000b","standing":"broken"}]`, record.FactDueAt, "9999999999", record.FactSentence, "a\x00b\xfe"))
	got, err := s.db.Rotation(s.Context(), "api@1")
	s.must(err)
	if got.State != activities.Planned || !got.Candidate.NotAfter.IsZero() || got.Stragglers != nil {
		s.Errorf("took over state %q, expiry %v, stragglers %v", got.State, got.Candidate.NotAfter, got.Stragglers)
	}
}

func (s *serviceDB) intent() {
	entry := s.outcome(1, 0, activities.Retired, record.FactDueAt, stamp(s.noon), record.FactCurrent, "eeee", record.FactIssuedNotReceived, "1")
	entry.Phase = record.Intent
	s.project(entry)
	if target := s.target("api"); target.LastState != activities.Planned || !target.DueAt.IsZero() || target.Current.Fingerprint != "" {
		s.Errorf("an intent left state %q, due date %v, fingerprint %q", target.LastState, target.DueAt, target.Current.Fingerprint)
	}
}

func (s *serviceDB) stragglers() {
	s.declare("api")
	life := s.life()
	s.project(life[:7]...)
	list, err := s.db.Stragglers(s.Context(), 0)
	s.must(err)
	s.same("stragglers", []servicedb.Consumer{{
		Target: "api", Consumer: "web", Address: "10.0.0.1:443", Standing: activities.UsesPrevious, Serves: "aaaa",
		Detail: "serves the previous certificate", Since: s.noon.Add(5 * time.Minute), SeenAt: s.noon.Add(6 * time.Minute),
	}}, list)
	s.project(life[7:]...)
	list, err = s.db.Stragglers(s.Context(), 0)
	s.must(err)
	s.same("stragglers at the end", 0, len(list))
	consumers, err := s.db.Consumers(s.Context(), "api")
	s.must(err)
	for _, consumer := range consumers {
		if consumer.Standing != activities.UsesCandidate || consumer.Serves != "bbbb" {
			s.Errorf("%s at %q is %q with %q, want proven with the candidate", consumer.Consumer, consumer.Address, consumer.Standing, consumer.Serves)
		}
	}
	// A complete look that does not find an address any more drops it.
	s.project(s.outcome(7, 9, activities.Retired, record.FactSightings, `[{"consumer":"web","address":"10.0.0.2:443","standing":"candidate","serves":"bbbb"}]`))
	consumers, err = s.db.Consumers(s.Context(), "api")
	s.must(err)
	var addresses []string
	for _, consumer := range consumers {
		addresses = append(addresses, consumer.Consumer+"/"+consumer.Address)
	}
	s.same("addresses", []string{"mail/", "web/10.0.0.2:443"}, addresses)
}

func (s *serviceDB) rotations() {
	for epoch := range activities.Epoch(5) {
		state := activities.Retired
		if epoch == 4 {
			state = activities.Published
		}
		s.project(s.outcome(epoch+1, int(epoch), state, record.FactTrigger, "schedule"))
	}
	s.declare("api")
	other := s.outcome(1, 2, activities.Aborted)
	other.Target, other.Rotation = "mail", "mail@1"
	s.project(other)
	list := func(filter servicedb.RotationFilter) (ids []activities.RotationID) {
		s.Helper()
		for page := (servicedb.Page{Limit: 2}); ; {
			part, next, err := s.db.Rotations(s.Context(), filter, page)
			s.must(err)
			for _, rotation := range part {
				ids = append(ids, rotation.ID)
			}
			if page.Cursor = next; next == "" {
				return ids
			}
		}
	}
	s.same("all", []activities.RotationID{"api@5", "api@4", "mail@1", "api@3", "api@2", "api@1"}, list(servicedb.RotationFilter{}))
	s.same("of a target", []activities.RotationID{"api@5", "api@4", "api@3", "api@2", "api@1"}, list(servicedb.RotationFilter{Target: "api"}))
	s.same("open", []activities.RotationID{"api@5"}, list(servicedb.RotationFilter{Open: true}))
	s.same("by state", []activities.RotationID{"mail@1"}, list(servicedb.RotationFilter{State: activities.Aborted}))
	s.same("by trigger", 5, len(list(servicedb.RotationFilter{Trigger: "schedule"})))
	s.same("by time", []activities.RotationID{"mail@1", "api@3", "api@2"},
		list(servicedb.RotationFilter{Since: s.noon.Add(time.Minute), Until: s.noon.Add(3 * time.Minute)}))
	if _, _, err := s.db.Rotations(s.Context(), servicedb.RotationFilter{}, servicedb.Page{Cursor: "nonsense"}); activities.KindOf(err) != activities.Invalid {
		s.Errorf("a foreign cursor: %v, want invalid", err)
	}
}

func (s *serviceDB) lost() {
	entry := s.outcome(3, 0, activities.Minted, record.FactIssuedNotReceived, "unknown")
	later := s.outcome(3, 5, activities.Retired, record.FactIssuedNotReceived, "unknown") // tells of the same one
	s.project(later, entry, entry)
	got, err := s.db.IssuedNotReceived(s.Context(), "api")
	s.must(err)
	s.same("lost", []servicedb.Lost{{Target: "api", Rotation: "api@3", Serial: "unknown", At: s.noon}}, got)
}
