package rotation

import (
	"slices"
	"time"

	"castellan.dev/activities"
)

// Input starts a rotation. An empty input is valid: the target is then taken from the workflow id, so
// that a signal-with-start from any client needs no encrypted argument.
type Input struct {
	Target  string             `json:"target,omitempty"`
	Host    string             `json:"host,omitempty"` // where the target's privileged worker runs, if known
	Trigger activities.Trigger `json:"trigger,omitzero"`
	Carried *State             `json:"carried,omitempty"` // from the run before, on continue-as-new
}

// Result says how a rotation ended.
type Result struct {
	Rotation    activities.RotationID `json:"rotation,omitempty"`
	State       activities.State      `json:"state"`
	Sentence    string                `json:"sentence"`
	Fingerprint string                `json:"fingerprint,omitempty"`
	NotProvable []string              `json:"not_provable,omitempty"`
	Verdict     activities.Verdict    `json:"verdict,omitzero"`
	Waves       []activities.Wave     `json:"waves,omitempty"` // for an observe-only target: what would be done
}

// State is everything a run knows: what queries answer, what current details show, and what
// continue-as-new carries over.
type State struct {
	Target      string                 `json:"target"`
	Host        string                 `json:"host,omitempty"`
	Trigger     activities.Trigger     `json:"trigger"`
	Run         string                 `json:"run"` // first run id, the identity towards rotate.open
	Plan        activities.Plan        `json:"plan,omitzero"`
	State       activities.State       `json:"state"`
	Candidate   activities.Candidate   `json:"candidate,omitzero"`
	Wave        int                    `json:"wave,omitempty"`     // the wave in hand
	Placed      bool                   `json:"placed,omitempty"`   // the wave in hand is published and has to converge
	Touched     bool                   `json:"touched,omitempty"`  // a publication was begun: the way back is a rollback
	Baseline    []string               `json:"baseline,omitempty"` // addresses that did not work before anything was published
	Evidence    []string               `json:"evidence,omitempty"` // ledger ids that prove convergence, per wave
	Stragglers  []activities.Straggler `json:"stragglers,omitempty"`
	Converged   []string               `json:"converged,omitempty"`
	Rounds      int                    `json:"rounds,omitempty"`  // looks at the wave in hand
	Waiting     string                 `json:"waiting,omitempty"` // what is waited for; empty: nothing
	WaitSince   time.Time              `json:"wait_since,omitzero"`
	WaitUntil   time.Time              `json:"wait_until,omitzero"`
	Paused      *Request               `json:"paused,omitempty"`
	Abort       *Request               `json:"abort,omitempty"`
	Note        string                 `json:"note,omitempty"` // the last message that was ignored, and why
	Sentence    string                 `json:"sentence,omitempty"`
	NotProvable []string               `json:"not_provable,omitempty"`
	Updated     time.Time              `json:"updated,omitzero"`
}

// Request is what a person asks of a running rotation.
type Request struct {
	Actor  string    `json:"actor,omitempty"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// WorkflowID returns the id under which a target's rotation runs. There is one at a time per target.
func WorkflowID(target string) string { return prefix + target }

const prefix = "rotate/"

// Names that are API: of the workflow types, the query, and the messages. Every message exists as an
// update (validated, answered) and as a signal (for clients that can only signal).
const (
	Name      = "rotation"
	SweepName = "rotation.sweep"

	QueryState = "state"

	Pause      = "pause"
	Resume     = "resume"
	Abort      = "abort"
	RotateNow  = "rotate-now"
	SkipWindow = "skip-window"
)

// Messages lists the messages in the order in which documentation shows them.
func Messages() []string { return []string{Pause, Resume, Abort, RotateNow, SkipWindow} }

// clone copies the state for a query's answer, so that the reader never sees a half-made change.
func (s State) clone() State {
	s.Evidence = slices.Clone(s.Evidence)
	s.Stragglers = slices.Clone(s.Stragglers)
	s.Converged = slices.Clone(s.Converged)
	return s
}
