package rotation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
)

// allow says whether a message makes sense in this state; the error is one sentence for the caller.
// It is pure, so validators, signal handling and tests share it.
func allow(message string, s State) error {
	if s.State.Ended() {
		return fmt.Errorf("cannot %s: the rotation of %q is over (%s)", message, s.Target, s.State)
	}
	switch message {
	case Pause:
		if s.Paused != nil {
			return fmt.Errorf("cannot pause: paused already by %s at %s", or(s.Paused.Actor, "somebody"), stamp(s.Paused.At))
		}
	case Resume:
		if s.Paused == nil {
			return fmt.Errorf("cannot resume: the rotation of %q is not paused", s.Target)
		}
	case Abort:
		if s.Abort != nil {
			return fmt.Errorf("cannot abort: %s asked for it already at %s", or(s.Abort.Actor, "somebody"), stamp(s.Abort.At))
		}
		if s.State == activities.Converged {
			return fmt.Errorf("cannot abort: every consumer of %q uses the candidate and the previous is being retired; only forward is possible", s.Target)
		}
	case SkipWindow:
		if s.Waiting != waitWindow {
			return fmt.Errorf("cannot skip the window: the rotation of %q is not waiting for one", s.Target)
		}
	case RotateNow:
		if s.Plan.Rotation != "" {
			return fmt.Errorf("cannot rotate now: rotation %s is under way already (%s)", s.Plan.Rotation, s.State)
		}
	default:
		return fmt.Errorf("unknown message %q: expected one of %s", message, strings.Join(Messages(), ", "))
	}
	return nil
}

// Reasons for waiting, as the state's Waiting shows them.
const (
	waitWindow  = "window"
	waitResume  = "resume"
	waitConsume = "consumers"
)

// verdictOf a look at a wave: go on, wait for stragglers, or give the wave up.
type verdictOf int

const (
	waveProven verdictOf = iota
	waveWaiting
	waveBroken
)

// judge decides what the last look at the wave in hand means. A consumer that still serves the previous
// is waited for however long it takes. Only the canary is given up, and only when an address that
// worked before has been broken, not merely late, for the whole grace: then the candidate is at fault.
func judge(s State, now time.Time) verdictOf {
	if len(s.Stragglers) == 0 {
		return waveProven
	}
	if s.Wave > 0 || s.Plan.Previous == "" {
		return waveWaiting // there is nothing to go back to before the first certificate
	}
	for _, missing := range s.Stragglers {
		if missing.Standing == activities.Broken && !slices.Contains(s.Baseline, missing.Consumer+" "+missing.Address) &&
			now.Sub(missing.Since) >= s.Plan.CanaryGrace {
			return waveBroken
		}
	}
	return waveWaiting
}

// merge keeps the moment since which an address is in its standing across looks.
func merge(before, after []activities.Straggler) []activities.Straggler {
	out := slices.Clone(after)
	for i := range out {
		for _, known := range before {
			if known.Consumer == out[i].Consumer && known.Address == out[i].Address && known.Standing == out[i].Standing {
				out[i].Since = known.Since
			}
		}
	}
	return out
}

// patience is how long one look keeps looking: short at first so that stragglers are shown soon, long
// later so that a straggler of weeks costs few events.
func patience(rounds int) time.Duration {
	switch {
	case rounds == 0:
		return 5 * time.Second
	case rounds < 6:
		return 15 * time.Second
	case rounds < 20:
		return 2 * time.Minute
	}
	return 8 * time.Minute
}

// passing reports whether a failure says only that something could not be reached in time.
func passing(err error) bool {
	if errors.Is(err, errAborted) || errors.Is(err, errBroken) || errors.Is(err, errOutlived) || workflow.IsContinueAsNewError(err) {
		return false
	}
	switch activities.KindOf(err) {
	case activities.Transient, activities.Throttled, activities.Uncertain:
		return true
	}
	return false
}

// explain takes the sentence of an activity's failure out of Temporal's wrapping.
func explain(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Message()
	}
	return err.Error()
}

// pause is the timer between two looks: none while the reload may still be on its way.
func pause(rounds int) time.Duration {
	switch {
	case rounds < 5:
		return 0
	case rounds < 20:
		return time.Minute
	}
	return 10 * time.Minute
}

// details renders the state as the markdown that the Web UI shows beside the run.
func details(s State, now time.Time) string {
	var b strings.Builder
	b.WriteString(fmt.Sprintf("**%s** %s", s.Target, s.State))
	if s.Plan.Rotation != "" {
		b.WriteString(fmt.Sprintf(" - rotation `%s`", s.Plan.Rotation))
	}
	b.WriteString("\n\n")
	if s.Plan.Verdict.Sentence != "" {
		b.WriteString(fmt.Sprintf("why: %s\n\n", s.Plan.Verdict.Sentence))
	}
	if s.Candidate.Fingerprint != "" {
		b.WriteString(fmt.Sprintf("candidate `%.16s`, valid until %s\n\n", s.Candidate.Fingerprint, stamp(s.Candidate.NotAfter)))
	}
	if s.Paused != nil {
		b.WriteString(fmt.Sprintf("**paused** by %s since %s: %s\n\n", or(s.Paused.Actor, "somebody"), stamp(s.Paused.At), or(s.Paused.Reason, "no reason given")))
	}
	if s.Waiting != "" {
		b.WriteString(fmt.Sprintf("waiting for %s since %s", s.Waiting, stamp(s.WaitSince)))
		if !s.WaitUntil.IsZero() {
			b.WriteString(fmt.Sprintf(", until %s", stamp(s.WaitUntil)))
		}
		b.WriteString("\n\n")
	}
	for _, missing := range s.Stragglers {
		b.WriteString(fmt.Sprintf("- straggler **%s** %s: %s", missing.Consumer, missing.Address, missing.Standing))
		if missing.Serves != "" {
			b.WriteString(fmt.Sprintf(" `%.16s`", missing.Serves))
		}
		b.WriteString(fmt.Sprintf(" since %s (%s) %s\n", stamp(missing.Since), now.Sub(missing.Since).Round(time.Second), missing.Detail))
	}
	if s.Note != "" {
		b.WriteString(fmt.Sprintf("\nignored: %s\n", s.Note))
	}
	if s.Sentence != "" {
		b.WriteString(fmt.Sprintf("\n%s\n", s.Sentence))
	}
	return b.String()
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
