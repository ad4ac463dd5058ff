package rotate_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/store"
)

func TestARotationKeepsExactlyTheCurrentKey(t *testing.T) {
	h := newHouse(t)
	_, first := h.rotateOnce("a")
	plan, second := h.rotateOnce("b")
	if plan.Epoch != 2 || plan.Previous != first.Fingerprint || h.visible(0) != second.Fingerprint || h.visible(1) != second.Fingerprint {
		t.Errorf("got epoch %d after %s, visible %s and %s; want the second everywhere", plan.Epoch, plan.Previous, h.visible(0), h.visible(1))
	}
	if got := h.keys(); got != "2" {
		t.Errorf("keys in the store: got %q, want the current one", got)
	}
	if head := h.head(); head.State != activities.Retired || head.Current.Epoch != 2 || head.Current.Fingerprint != second.Fingerprint {
		t.Errorf("head: got %+v", head)
	}
	h.noKeys()
}

// TestRequestsAreNotBelieved tries what somebody could ask who can write to the namespace, or a workflow
// that is wrong.
func TestRequestsAreNotBelieved(t *testing.T) {
	h := newHouse(t)
	_, first := h.rotateOnce("a")
	plan := h.open("b", activities.Trigger{Source: "schedule"})
	h.refused(h.publish(plan, "one"), activities.Invalid) // not tested
	h.refused(h.retire(plan), activities.Invalid)         // not published
	candidate := h.prepare(plan)
	h.refused(h.retire(plan), activities.Invalid)
	h.must(h.publish(plan, "one"))
	h.refused(h.retire(plan), activities.Invalid) // the second delivery is missing
	_, err := h.steps.Prove(h.as("rotate.prove"), request(plan))
	h.refused(err, activities.Invalid) // nobody reported a compromise
	h.refused(h.end(plan, activities.Retired), activities.Invalid)
	h.refused(h.end(plan, activities.ProvenDead), activities.Invalid)
	h.refused(h.end(plan, activities.NotDue), activities.Invalid)
	h.refused(h.end(plan, activities.Aborted), activities.Invalid)    // published
	h.refused(h.end(plan, activities.RolledBack), activities.Invalid) // not put back
	if got := h.keys(); got != "1 2" {
		t.Fatalf("keys: got %q, want both", got)
	}
	if h.visible(1) != first.Fingerprint {
		t.Fatal("the second delivery changed")
	}
	h.must(h.publish(plan, "two"))
	h.must(h.retire(plan)) // says dead, without proof
	if head := h.head(); head.State != activities.Retired {
		t.Errorf("state: got %s, want %s: nothing was proven dead", head.State, activities.Retired)
	}
	for _, state := range []activities.State{activities.RolledBack, activities.Aborted, activities.Quarantined} {
		h.refused(h.end(plan, state), activities.Fenced)
	}
	h.refused(h.rollback(plan), activities.Invalid)
	if got := h.keys(); got != "2" || h.visible(0) != candidate.Fingerprint {
		t.Errorf("after the end: keys %q, visible %s", got, h.visible(0))
	}
}

func TestACompromisedCredentialIsRevokedBeforeItsKeyIsErased(t *testing.T) {
	h := newHouse(t)
	h.rotateOnce("a")
	plan := h.open("b", activities.Trigger{Source: "operator", Compromise: true})
	h.prepare(plan)
	_, err := h.steps.Prove(h.as("rotate.prove"), request(plan))
	h.refused(err, activities.Invalid) // in use
	h.must(h.publish(plan, "one", "two"))
	h.refused(h.retire(plan), activities.Invalid)
	death, err := h.steps.Prove(h.as("rotate.prove"), request(plan))
	h.must(err)
	if !strings.Contains(death.Proof.Sentence, "revoked and listed") || death.Proven {
		t.Errorf("got %+v, want revoked, and not proven without a peer", death)
	}
	h.refused(h.rollback(plan), activities.Invalid) // it would put a revoked certificate back
	h.must(h.retire(plan))
	if head := h.head(); head.State != activities.Retired || h.keys() != "2" {
		t.Errorf("got %s with keys %q", head.State, h.keys())
	}
}

// TestALostReplyOfTheLedgerLosesNoEvidence loses the first reply to the last entry of a step whose effect
// has been made durable.
func TestALostReplyOfTheLedgerLosesNoEvidence(t *testing.T) {
	h := newHouse(t)
	lose := func(step string, phase record.Phase) {
		lost := false
		h.ledger.refuse = func(e record.Entry) bool {
			now := !lost && e.Step == step && e.Phase == phase
			lost = lost || now
			return now
		}
	}
	lose("rotate.open", record.Fact)
	_, err := h.steps.Open(h.as("rotate.open"), activities.OpenRequest{Target: "payments", Run: "a", Trigger: activities.Trigger{Source: "operator", Actor: "ann"}})
	h.refused(err, activities.Transient)
	plan := h.open("a", activities.Trigger{Source: "operator", Actor: "ann"})
	if got := h.ledger.find("rotate.open", record.Fact); plan.Epoch != 1 || len(got) != 1 || got[0].Facts[record.FactTriggerActor] != "ann" {
		t.Errorf("opening: got epoch %d and %+v", plan.Epoch, got)
	}
	h.prepare(plan)
	h.must(h.publish(plan, "one", "two"))
	lose("rotate.retire", record.Outcome)
	h.refused(h.retire(plan), activities.Transient)
	h.must(h.retire(plan))
	got := h.ledger.find("rotate.retire", record.Outcome)
	if len(got) != 1 || got[0].Facts[record.FactState] != string(activities.Retired) || got[0].Facts[record.FactDueAt] == "" {
		t.Errorf("retirement: got %+v", got)
	}
	plan = h.open("b", activities.Trigger{})
	lose("rotate.end/ABORTED", record.Outcome)
	h.refused(h.end(plan, activities.Aborted), activities.Transient)
	h.must(h.end(plan, activities.Aborted))
	if got := h.ledger.find("rotate.end/ABORTED", record.Outcome); len(got) != 1 {
		t.Errorf("end: got %d outcomes, want 1", len(got))
	}
}

func TestAnotherRunGoesOnWithTheSameCandidate(t *testing.T) {
	h := newHouse(t)
	plan := h.open("a", activities.Trigger{Source: "schedule"})
	first := h.prepare(plan)
	again := h.open("b", activities.Trigger{Source: "operator", Actor: "ann", Compromise: true})
	if again.Rotation != plan.Rotation || again.State != activities.Tested || again.Candidate.Fingerprint != first.Fingerprint || !again.Compromise {
		t.Errorf("got %+v, want the same rotation, escalated", again)
	}
	got := h.ledger.find("rotate.open/resumed/b", record.Fact)
	if len(got) != 1 || got[0].Facts[record.FactTriggerActor] != "ann" {
		t.Errorf("who took over: got %+v", got)
	}
	if repeated := h.open("a", activities.Trigger{}); repeated.Rotation != plan.Rotation {
		t.Errorf("got %s, want the rotation in hand", repeated.Rotation)
	}
}

func TestARolledBackCandidateNeverComesBack(t *testing.T) {
	h := newHouse(t)
	_, first := h.rotateOnce("a")
	plan := h.open("b", activities.Trigger{})
	h.prepare(plan)
	h.must(h.publish(plan, "one"))
	h.must(h.rollback(plan))
	h.must(h.rollback(plan))
	h.refused(h.publish(plan, "one"), activities.Fenced)
	h.refused(h.publish(plan, "two"), activities.Fenced)
	if half := h.open("c", activities.Trigger{}); !half.Reverting || half.Rotation != plan.Rotation {
		t.Errorf("taken over: got %+v, want a rotation that can only go back", half)
	}
	h.must(h.end(plan, activities.RolledBack))
	if h.visible(0) != first.Fingerprint || h.visible(1) != first.Fingerprint || h.keys() != "1" {
		t.Errorf("got %s and %s with keys %q, want the first", h.visible(0), h.visible(1), h.keys())
	}
	h.noKeys()
	next, _ := h.rotateOnce("d")
	if next.Epoch != 4 || next.Previous != first.Fingerprint || h.keys() != "4" {
		t.Errorf("next: got epoch %d after %s with keys %q", next.Epoch, next.Previous, h.keys())
	}
}

func TestAForeignWriterStaysAlsoWhenRollingBack(t *testing.T) {
	h := newHouse(t)
	_, first := h.rotateOnce("a")
	plan := h.open("b", activities.Trigger{})
	h.prepare(plan)
	h.must(h.publish(plan, "one"))
	other := newHouse(t)
	_, foreign := other.rotateOnce("x")
	served := filepath.Join(h.dir, "two")
	h.must(os.CopyFS(filepath.Join(served, "theirs"), os.DirFS(filepath.Join(other.dir, "one", "current"))))
	h.must(os.Remove(filepath.Join(served, "current")))
	h.must(os.Symlink("theirs", filepath.Join(served, "current")))
	h.refused(h.publish(plan, "two"), activities.Conflict)
	err := h.rollback(plan)
	if final, ok := err.(*activities.Error); !ok || final.Kind != activities.Conflict || !final.Final {
		t.Errorf("got %v, want a conflict for a person", err)
	}
	if h.visible(0) != first.Fingerprint || h.visible(1) != foreign.Fingerprint {
		t.Errorf("got %s and %s, want the previous where castellan wrote, and the foreign one where it did not", h.visible(0), h.visible(1))
	}
	h.must(h.end(plan, activities.Quarantined))
}

func TestWhatAQuarantineLeftIsKnownAndErased(t *testing.T) {
	h := newHouse(t)
	h.rotateOnce("a")
	plan := h.open("b", activities.Trigger{})
	left := h.prepare(plan)
	h.must(h.publish(plan, "one", "two"))
	h.must(h.end(plan, activities.Quarantined))
	if declined := h.open("c", activities.Trigger{Source: "schedule"}); declined.Rotation != "" || declined.Verdict.Reason != "quarantined" {
		t.Errorf("schedule: got %+v, want it to leave the target alone", declined)
	}
	plan = h.open("d", activities.Trigger{Source: "operator", Compromise: true})
	if previous := h.head().Previous; previous.Fingerprint != left.Fingerprint || previous.Epoch != 2 {
		t.Fatalf("previous: got %+v, want the candidate that was left, with its epoch", previous)
	}
	h.prepare(plan)
	h.must(h.publish(plan, "one", "two"))
	death, err := h.steps.Prove(h.as("rotate.prove"), request(plan))
	h.must(err)
	if !strings.Contains(death.Proof.Sentence, "revoked and listed") {
		t.Errorf("got %q, want it revoked", death.Proof.Sentence)
	}
	h.must(h.retire(plan))
	if got := h.keys(); got != "3" {
		t.Errorf("keys: got %q, want the current one", got)
	}
}

func TestACandidateThatExpiredWhileItWaitedIsNotPublished(t *testing.T) {
	h := newHouse(t)
	_, first := h.rotateOnce("a")
	h.cert.Lifetime = 5 * time.Minute
	plan := h.open("b", activities.Trigger{Source: "operator", Until: activities.Tested})
	h.prepare(plan)
	h.clock = time.Hour
	plan = h.open("c", activities.Trigger{Source: "schedule"})
	h.refused(h.publish(plan, "one"), activities.Failed)
	if h.visible(0) != first.Fingerprint {
		t.Error("an expired certificate is visible")
	}
	h.must(h.end(plan, activities.Aborted))
}

func TestARestoredStoreDoesNotFightTheTarget(t *testing.T) {
	h := newHouse(t)
	h.rotateOnce("a")
	plan := h.open("b", activities.Trigger{})
	before, err := h.store.Read(t.Context(), "heads/payments")
	h.must(err)
	h.prepare(plan)
	h.must(h.publish(plan, "one", "two"))
	h.must(h.retire(plan))
	h.rotateOnce("c") // epoch 3 is on the target
	latest, err := h.store.Read(t.Context(), "heads/payments")
	h.must(err)
	_, err = h.store.Write(t.Context(), "heads/payments", before.Value, latest.Version)
	h.must(err)
	again := h.open("d", activities.Trigger{})
	if again.Epoch != 4 || again.State != activities.Planned {
		t.Errorf("got epoch %d (%s), want 4: the target has seen 3", again.Epoch, again.State)
	}
	h.prepare(again)
	h.must(h.publish(again, "one", "two"))
	if old := h.open("b", activities.Trigger{}); old.State != activities.Superseded {
		t.Errorf("the run of epoch 2: got %s, want %s", old.State, activities.Superseded)
	}
}

func TestAGroupIsHeldByWhoRotatesAndNotByWhoWasToldToStop(t *testing.T) {
	h := newHouse(t)
	h.target.Group = "edge"
	holder := func() string {
		t.Helper()
		h.saw = rotate.Situation{}
		_, err := h.steps.Open(h.as("rotate.open"), activities.OpenRequest{Target: "orders", Run: "o"})
		h.must(err)
		return h.saw.GroupHolder
	}
	plan := h.open("a", activities.Trigger{Until: activities.Tested})
	h.clock = 2 * time.Minute
	h.declines = "orders"
	if got := holder(); got != "payments" {
		t.Errorf("while payments rotates: got holder %q", got)
	}
	h.prepare(plan)
	if got := holder(); got != "" {
		t.Errorf("after it stopped as asked: got holder %q, want none", got)
	}
	h.open("b", activities.Trigger{})
	if got := holder(); got != "payments" {
		t.Errorf("when it goes on: got holder %q", got)
	}
}

func TestOneKeyIsMintedHoweverManyTry(t *testing.T) {
	h := newHouse(t)
	plan := h.open("a", activities.Trigger{})
	ids := make([]string, 8)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			candidate, err := h.steps.Mint(h.as("rotate.mint"), request(plan))
			if err != nil {
				t.Error(err)
			}
			ids[i] = candidate.KeyID
		})
	}
	all.Wait()
	versions, err := h.store.Versions(t.Context(), "keys/payments/1")
	h.must(err)
	for _, id := range ids {
		if id != ids[0] || id == "" || len(versions) != 1 {
			t.Fatalf("got keys %q in %d versions, want one", ids, len(versions))
		}
	}
}

func TestARetirementThatIsDeniedIsTriedAgain(t *testing.T) {
	h := newHouse(t)
	h.rotateOnce("a")
	plan := h.open("b", activities.Trigger{})
	h.prepare(plan)
	h.must(h.publish(plan, "one", "two"))
	fine := h.cert.Deliveries[0]
	h.cert.Deliveries[0].Deliverer = denied{fine.Deliverer}
	h.refused(h.retire(plan), activities.Transient)
	if got := h.ledger.find("rotate.retire/denied", record.Outcome); len(got) != 1 || got[0].Facts[record.FactState] != "" {
		t.Errorf("evidence: got %+v, want a refusal without a state", got)
	}
	h.cert.Deliveries[0] = fine
	h.must(h.retire(plan))
}

func TestLongTextsDoNotKeepAStepFromBeingRecorded(t *testing.T) {
	h := newHouse(t)
	plan := h.open("a", activities.Trigger{Reason: strings.Repeat("because ", 4000) + "\x00\xff"})
	step := request(plan)
	step.Reason = strings.Repeat("a very long story ", 2000)
	_, err := h.steps.End(h.as("rotate.end"), activities.EndRequest{StepRequest: step, State: activities.Aborted})
	h.must(err)
	for _, e := range h.ledger.entries {
		for name, value := range e.Facts {
			if len(value) > 8<<10 || strings.Contains(value, "\x00") {
				t.Errorf("%s: fact %s has %d bytes", e.Step, name, len(value))
			}
		}
		if len(e.Reason) > 8<<10 {
			t.Errorf("%s: reason has %d bytes", e.Step, len(e.Reason))
		}
	}
}

func TestHeadsStaySmallAndOldOnesAreErased(t *testing.T) {
	h := newHouse(t)
	h.rotateOnce("a")
	versions, err := h.store.Versions(t.Context(), "heads/payments")
	h.must(err)
	alive := 0
	for _, v := range versions {
		if !v.Erased {
			alive++
		}
	}
	if alive > 2 || versions[len(versions)-1].Version == store.Version(1) {
		t.Errorf("got %d living versions of %d", alive, len(versions))
	}
}

func TestStragglersThatOutlastTheCandidateMakeRoomForAFreshRotation(t *testing.T) {
	h := newHouse(t)
	h.rotateOnce("a")
	plan := h.open("b", activities.Trigger{Source: "schedule"})
	outlived := h.prepare(plan)
	h.must(h.publish(plan, "one", "two"))
	h.refused(h.end(plan, activities.Superseded), activities.Invalid) // its candidate has time left
	h.clock = 10 * time.Hour
	h.must(h.end(plan, activities.Superseded))
	if got := h.keys(); got != "1 2" {
		t.Fatalf("keys: got %q, want both: nothing was proven, so nothing is erased", got)
	}
	plan = h.open("c", activities.Trigger{Source: "schedule"})
	if previous := h.head().Previous; plan.Epoch != 3 || previous.Fingerprint != outlived.Fingerprint {
		t.Fatalf("got epoch %d after %+v, want a fresh rotation after the outlived candidate", plan.Epoch, previous)
	}
	h.prepare(plan)
	h.must(h.publish(plan, "one", "two"))
	h.must(h.retire(plan))
	if got := h.keys(); got != "3" {
		t.Errorf("keys: got %q, want the current one", got)
	}
}
