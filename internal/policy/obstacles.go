package policy

import (
	"fmt"
	"time"
)

// obstacle is why a due target has to wait, and until when at least.
type obstacle struct {
	reason   string
	sentence string
	until    time.Time
}

// hindrance says whether something stands in the way of a rotation that begins at t.
type hindrance func(in Input, planned plan, t time.Time) (obstacle, bool)

// hindrances returns what a due target has to respect, most important first: everything, and the part
// that counts even when waiting would let the credential run out. A compromise and a rotation in hand
// respect nothing; an outage only that it is held back after failures, because nothing works that a
// window, a freeze or a neighbour could protect.
func hindrances(in Input, why cause) (all, firm []hindrance) {
	if why.reason == ReasonCompromise || why.reason == ReasonInHand {
		return nil, nil
	}
	if !in.Trigger.Now {
		all, firm = append(all, held), append(firm, held)
	}
	if why.outage {
		return all, firm
	}
	all = append(all, blackout)
	if !in.Trigger.Anytime {
		all = append(all, window)
	}
	// The neighbours come last: whether a window is shared can only be asked inside one.
	return append(all, neighbourBusy, neighbourRecent), append(firm, neighbourRecent)
}

func held(in Input, _ plan, t time.Time) (obstacle, bool) {
	sentence := "held back after a failure"
	if in.Held.Reason != "" {
		sentence += ": " + in.Held.Reason
	}
	return obstacle{ReasonHeld, sentence, in.Held.Until}, t.Before(in.Held.Until)
}

func blackout(in Input, _ plan, t time.Time) (obstacle, bool) {
	found, until, ok := blackoutAt(in.Policy.Blackouts, t)
	sentence := "blackout " + found.Name
	if found.Reason != "" {
		sentence += " (" + found.Reason + ")"
	}
	return obstacle{ReasonBlackout, sentence, until}, ok
}

func window(in Input, _ plan, t time.Time) (obstacle, bool) {
	if len(in.Policy.Windows) == 0 {
		return obstacle{}, false
	}
	opens, ok := nextOpening(in.Policy.Windows, t)
	return obstacle{ReasonWindow, "outside its maintenance windows", opens}, ok && opens.After(t)
}

// neighbourBusy keeps members of a group from rotating while another one has an open rotation.
func neighbourBusy(in Input, planned plan, t time.Time) (obstacle, bool) {
	holder := in.Group.Holder
	if in.Policy.Group == "" || holder == "" || holder == in.Target || t.After(in.Now) {
		return obstacle{}, false
	}
	// Nobody knows how long it takes. By the next window, or after the interval, it is asked again, and
	// in any case before it is too late.
	until := t.Add(max(in.Policy.apart(in.Observed.lifetime()), time.Second))
	if open, ok := windowAt(in.Policy.Windows, t); ok {
		until = open.until
	} else if planned.latest.After(t) && until.After(planned.latest) {
		until = planned.latest
	}
	return obstacle{ReasonExclusion, fmt.Sprintf("%s of group %q is being rotated", holder, in.Policy.Group), until}, true
}

// neighbourRecent keeps members of a group from beginning in the same window. Where windows do not
// separate them, an interval does.
func neighbourRecent(in Input, _ plan, t time.Time) (obstacle, bool) {
	last := in.Group.Last
	if in.Policy.Group == "" || last.IsZero() {
		return obstacle{}, false
	}
	who := in.Group.LastMember
	if who == "" {
		who = "another member"
	}
	sentence := fmt.Sprintf("%s of group %q began at %s", who, in.Policy.Group, stamp(last))
	if until, shared := sharedWindow(in.Policy.Windows, last, t); shared {
		return obstacle{ReasonExclusion, sentence, until}, true
	}
	_, lastInside := windowAt(in.Policy.Windows, last)
	_, inside := windowAt(in.Policy.Windows, t)
	until := last.Add(in.Policy.apart(in.Observed.lifetime()))
	return obstacle{ReasonExclusion, sentence, until}, !(lastInside && inside) && t.Before(until)
}

// sharedWindow reports whether two moments lie in one occurrence of some window, and when it closes.
func sharedWindow(windows []Window, a, b time.Time) (time.Time, bool) {
	for _, each := range windows {
		if occurrence, ok := each.next(b); ok && occurrence.holds(b) && occurrence.holds(a) {
			return occurrence.until, true
		}
	}
	return time.Time{}, false
}

// horizon bounds the search for a moment without obstacles: beyond it the calendar is taken to be
// closed for good.
const horizon = 2 * 366 * 24 * time.Hour

// opening returns the first moment from t on at which none of the hindrances stands in the way, and the
// first obstacle that was met.
func opening(in Input, planned plan, t time.Time, hindrances []hindrance) (time.Time, *obstacle) {
	var first *obstacle
	for limit := t.Add(horizon); t.Before(limit); {
		met, blocked := obstructed(in, planned, t, hindrances)
		if !blocked {
			break
		}
		if first == nil {
			first = &met
		}
		if !met.until.After(t) {
			break // an obstacle that does not end after t is a defect; better early than never
		}
		t = met.until
	}
	return t, first
}

// obstructed returns the first obstacle at t.
func obstructed(in Input, planned plan, t time.Time, hindrances []hindrance) (obstacle, bool) {
	for _, hindrance := range hindrances {
		if met, blocked := hindrance(in, planned, t); blocked {
			return met, true
		}
	}
	return obstacle{}, false
}
