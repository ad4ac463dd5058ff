package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"castellan.dev/activities"
)

// random returns inputs that vary in everything that decides about the moment. The seed makes a failure
// repeatable.
func random(seed uint64) Input {
	r := rand.New(rand.NewPCG(seed, 7))
	in := base()
	lifetime := time.Duration(1+r.Int64N(int64(400*day))) + time.Minute
	in.Target = fmt.Sprintf("target-%d", seed)
	in.Observed.Fingerprint = fmt.Sprintf("%x", r.Uint64())
	in.Observed.NotBefore = issued.Add(time.Duration(r.Int64N(int64(365 * day))))
	in.Observed.NotAfter = in.Observed.NotBefore.Add(lifetime)
	in.Policy = Policy{}
	switch r.IntN(3) {
	case 0:
		in.Policy.RenewAt = Fraction{1 + r.Int64N(98), 100}
	case 1:
		in.Policy.RenewBefore = time.Duration(r.Int64N(int64(2 * lifetime)))
	}
	switch r.IntN(3) {
	case 0:
		in.Policy.Jitter = Fixed(time.Duration(r.Int64N(int64(lifetime))))
	case 1:
		in.Policy.Jitter = Share(1+r.Int64N(98), 100)
	}
	for range r.IntN(3) {
		in.Policy.Windows = append(in.Policy.Windows, Window{
			Days: []time.Weekday{time.Weekday(r.IntN(7))}, Hour: r.IntN(24), Minute: r.IntN(60),
			Duration: time.Duration(1+r.IntN(600)) * time.Minute,
		})
	}
	if r.IntN(2) == 0 {
		from := in.Observed.NotBefore.Add(time.Duration(r.Int64N(int64(lifetime))))
		in.Policy.Blackouts = []Blackout{{Name: "freeze", From: from, Until: from.Add(time.Duration(r.Int64N(int64(30 * day))))}}
	}
	in.Policy.Strict = r.IntN(4) == 0
	if r.IntN(2) == 0 {
		in.Policy.Group = "pair"
		in.Group.Last = in.Observed.NotBefore.Add(time.Duration(r.Int64N(int64(lifetime))))
	}
	in.Now = in.Observed.NotBefore.Add(time.Duration(r.Int64N(int64(lifetime + lifetime/2))))
	return in
}

const samples = 1000

func TestTheJitteredMomentIsPickedOnceAndStaysWithinItsBounds(t *testing.T) {
	for seed := range uint64(samples) {
		in := random(seed)
		s := in.Policy.schedule(in.Target, in.Observed)
		lifetime := in.Observed.lifetime()
		if s.at.Before(s.due) || s.at.After(s.due.Add(in.Policy.jitter(lifetime))) {
			t.Fatalf("seed %d: %s is not within [%s, +%s]", seed, stamp(s.at), stamp(s.due), in.Policy.jitter(lifetime))
		}
		if reserve := in.Observed.NotAfter.Sub(s.due) / 4; s.at.After(in.Observed.NotAfter.Add(-reserve)) {
			t.Fatalf("seed %d: %s is within %s of the end at %s", seed, stamp(s.at), reserve, stamp(in.Observed.NotAfter))
		}
		if !s.due.After(in.Observed.NotBefore) || !s.due.Before(in.Observed.NotAfter) {
			t.Fatalf("seed %d: due at %s outside its life from %s to %s", seed, stamp(s.due), stamp(in.Observed.NotBefore), stamp(in.Observed.NotAfter))
		}
		if moves(in, Decide) {
			t.Fatalf("seed %d: the moment moved although the credential is the same", seed)
		}
	}
}

// moves reports whether the moment at which a target becomes due depends on when one asks.
func moves(in Input, decide func(Input) activities.Verdict) bool {
	in.Now = in.Observed.NotBefore
	first := decide(in)
	for range 20 {
		in.Now = in.Now.Add(in.Observed.lifetime() / 50)
		if again := decide(in); again.Reason != first.Reason || !again.DueAt.Equal(first.DueAt) {
			return again.Reason == ReasonNotDue || in.Now.Before(first.DueAt)
		}
	}
	return false
}

// A decision that draws its jitter anew at each evaluation is caught by the same check.
func TestAMomentThatIsDrawnAnewIsCaught(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 7))
	naive := func(in Input) activities.Verdict {
		verdict := activities.Verdict{Reason: ReasonNotDue, DueAt: due.Add(time.Duration(r.Int64N(int64(day))))}
		if verdict.Due = !in.Now.Before(verdict.DueAt); verdict.Due {
			verdict.Reason = ReasonDue
		}
		return verdict
	}
	if !moves(base(), naive) {
		t.Error("a moment that is drawn anew was not noticed")
	}
}

func TestTheJitterSpreadsTargetsAndSuccessors(t *testing.T) {
	const buckets, each = 10, 1000
	count := map[string]*[buckets]int{"targets": {}, "fingerprints": {}}
	for i := range buckets * each {
		count["targets"][offset(fmt.Sprintf("t%d", i), "f", buckets*time.Hour-1)/time.Hour]++
		count["fingerprints"][offset("t", fmt.Sprintf("f%d", i), buckets*time.Hour-1)/time.Hour]++
	}
	for what, filled := range count {
		for i, n := range filled {
			if n < each*8/10 || n > each*12/10 {
				t.Errorf("%s: %d of %d fall into tenth %d, want about %d", what, n, buckets*each, i, each)
			}
		}
	}
}

func TestOnceDueItStaysDueUntilTheCredentialChanges(t *testing.T) {
	for seed := range uint64(samples) {
		in := random(seed)
		first := Decide(in)
		if !first.Due {
			continue
		}
		for _, after := range []time.Duration{1, time.Minute, day, 40 * day} {
			later := in
			later.Now = in.Now.Add(after)
			if got := Decide(later); !got.Due {
				t.Fatalf("seed %d: due at %s, not due %s later: %s", seed, stamp(in.Now), after, got.Sentence)
			}
		}
	}
}

func TestNextDueIsTheMomentAtWhichItNeedNotWait(t *testing.T) {
	for seed := range uint64(samples) {
		in := random(seed)
		next, ok := NextDue(in)
		if !ok {
			t.Fatalf("seed %d: no next moment", seed)
		}
		at := in
		if at.Now = next; next.Before(in.Now) {
			at.Now = in.Now
		}
		if got := Decide(at); !got.Due || !got.Wait.IsZero() {
			t.Fatalf("seed %d: at %s: due %t, wait %s: %s", seed, stamp(at.Now), got.Due, stamp(got.Wait), got.Sentence)
		}
		// And not a moment earlier, or it was due before it was asked.
		if before := next.Add(-time.Nanosecond); before.After(in.Now) {
			at.Now = before
			if got := Decide(at); got.Due && got.Wait.IsZero() {
				t.Fatalf("seed %d: could have rotated before %s: %s", seed, stamp(next), got.Sentence)
			}
		}
	}
}

func TestAWaitNeverEndsInsideABlackoutOrOutsideAWindowUnlessItSaysSo(t *testing.T) {
	for seed := range uint64(samples) {
		in := random(seed)
		got := Decide(in)
		if !got.Due || got.Reason == ReasonExpired || got.Reason == ReasonExpiresFirst {
			continue
		}
		if !got.Wait.IsZero() {
			if !got.Wait.After(in.Now) {
				t.Fatalf("seed %d: waits until %s, which is past", seed, stamp(got.Wait))
			}
			continue // where a wait ends is decided again; NextDue is tested above
		}
		if _, _, covered := blackoutAt(in.Policy.Blackouts, in.Now); covered {
			t.Fatalf("seed %d: rotates inside a blackout: %s", seed, got.Sentence)
		}
		if _, open := windowAt(in.Policy.Windows, in.Now); !open && len(in.Policy.Windows) > 0 {
			t.Fatalf("seed %d: rotates outside every window: %s", seed, got.Sentence)
		}
	}
}

// Two members of a group rotate for two years. Never does one begin in a window in which the other did,
// and never within the interval where windows do not separate them.
func TestMembersOfAGroupNeverRotateInTheSameWindow(t *testing.T) {
	policies := map[string]Policy{
		"with windows":          {Group: "pair", Windows: []Window{{Hour: 2, Duration: 2 * time.Hour}}},
		"with a rare window":    {Group: "pair", Windows: tuesdays()},
		"without windows":       {Group: "pair", Apart: Fixed(day)},
		"with the default":      {Group: "pair"},
		"strict, with a window": {Group: "pair", Strict: true, Windows: tuesdays()},
	}
	for name, policy := range policies {
		t.Run(name, func(t *testing.T) {
			type member struct {
				in   Input
				last time.Time
			}
			members := make([]*member, 2)
			for i := range members {
				in := base()
				in.Target, in.Policy, in.Policy.Jitter = fmt.Sprintf("m%d", i), policy, Fixed(0)
				in.Observed.NotAfter = issued.Add(30 * day)
				members[i] = &member{in: in}
			}
			rotations := 0
			for now := issued; now.Before(issued.Add(2 * 365 * day)); now = now.Add(45 * time.Minute) {
				for i, each := range members {
					other := members[1-i]
					each.in.Now, each.in.Group = now, Group{Last: other.last, LastMember: other.in.Target}
					if verdict := Decide(each.in); !verdict.Due || !verdict.Wait.IsZero() {
						continue
					}
					if _, shared := sharedWindow(policy.Windows, other.last, now); shared {
						t.Fatalf("%s began at %s in the window of the other, which began at %s", each.in.Target, stamp(now), stamp(other.last))
					}
					if len(policy.Windows) == 0 && now.Sub(other.last) < policy.apart(30*day) {
						t.Fatalf("%s began at %s, too close to %s", each.in.Target, stamp(now), stamp(other.last))
					}
					rotations, each.last = rotations+1, now
					each.in.Observed.NotBefore, each.in.Observed.NotAfter = now, now.Add(30*day)
					each.in.Observed.Fingerprint = stamp(now)
				}
			}
			if rotations < 2*12 {
				t.Errorf("only %d rotations in two years", rotations)
			}
		})
	}
}
