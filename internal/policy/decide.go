package policy

import (
	"time"

	"castellan.dev/activities"
)

// Decide says whether the target is due for rotation and from which moment on it may begin.
//
// A verdict that is due with a zero Wait may act now. One that is due with a Wait must not act before
// that moment, and asks again then. One that is not due names the moment at which it will be.
func Decide(in Input) activities.Verdict {
	planned := in.Policy.schedule(in.Target, in.Observed)
	verdict := activities.Verdict{Deadline: in.Observed.NotAfter, DueAt: planned.at}
	why, due := firstCause(in, planned)
	if in.Paused && why.reason != ReasonCompromise && why.reason != ReasonInHand {
		verdict.Reason, verdict.Sentence = ReasonPaused, "is paused by an operator"
		return verdict
	}
	if !due {
		verdict.Reason, verdict.Sentence = ReasonNotDue, planned.because+", at "+stamp(planned.at)
		return verdict
	}
	verdict.Due, verdict.Reason, verdict.Sentence, verdict.DueAt = true, why.reason, why.sentence, why.at
	if why.at.IsZero() {
		verdict.DueAt = in.Now
	}
	wait(&verdict, in, why, planned)
	return verdict
}

// NextDue returns the moment at which the target is worth deciding about again: when it becomes due, or,
// if it has to wait then, when it need not wait any longer. The inventory is indexed by it. It reports
// false for a paused target.
func NextDue(in Input) (time.Time, bool) {
	verdict := Decide(in)
	if verdict.Reason == ReasonPaused {
		return time.Time{}, false
	}
	if !verdict.Due {
		// What others do by then is not known yet, except when they last began.
		in.Now, in.Group.Holder = verdict.DueAt, ""
		verdict = Decide(in)
	}
	if !verdict.Wait.IsZero() {
		return verdict.Wait, true
	}
	return verdict.DueAt, true
}

// firstCause walks the chain.
func firstCause(in Input, planned plan) (cause, bool) {
	for _, rule := range causes() {
		if why, due := rule(in, planned); due {
			return why, true
		}
	}
	return cause{}, false
}

// wait adds to a due verdict what it has to wait for, if anything.
func wait(verdict *activities.Verdict, in Input, why cause, planned plan) {
	all, firm := hindrances(in, why)
	moment, met := opening(in, planned, in.Now, all)
	if met == nil {
		return
	}
	// Windows, blackouts and busy neighbours protect against disturbance; letting the credential run out
	// would be a bigger one.
	without, other := opening(in, planned, in.Now, firm)
	if moment.After(planned.latest) && moment.After(without) && !in.Policy.Strict {
		if in.Now.Before(planned.at) {
			moment = later(without, planned.at) // no need to break a freeze before its time has come
		} else {
			closed, _ := obstructed(in, planned, without, all)
			moment, met = without, other
			verdict.Reason = ReasonExpiresFirst
			verdict.Sentence += "; " + closed.sentence + ", but it expires at " + stamp(in.Observed.NotAfter) + ", too soon to wait"
		}
	}
	if met == nil {
		return
	}
	if end := in.Observed.NotAfter; moment.After(end) && in.Now.Before(end) && !in.Policy.Strict {
		// From then on it is an outage, which waits for fewer things.
		again, _ := hindrances(in, cause{reason: ReasonExpired, outage: true})
		moment, _ = opening(in, planned, end, again)
	}
	verdict.Wait, verdict.Reason = moment, met.reason
	verdict.Sentence += "; waits until " + stamp(moment) + ": " + met.sentence
}

// later returns the later of two moments.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
