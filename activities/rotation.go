package activities

import (
	"fmt"
	"time"
)

// Epoch is the fencing number of a rotation: it strictly grows per target, and every write at a
// target carries it.
type Epoch uint64

// RotationID names one rotation of one target. It is allocated once, in the store, by check-and-set,
// and is the same after a retry, a workflow reset or a restore: it is the key under which the
// candidate is minted.
type RotationID string

// NewRotationID returns the id of a target's rotation with the given epoch.
func NewRotationID(target string, epoch Epoch) RotationID {
	return RotationID(fmt.Sprintf("%s@%d", target, epoch))
}

// State is where a rotation stands. The values are stored and shown; never change one.
type State string

const (
	Planned    State = "PLANNED"     // allocated; nothing has changed anywhere
	Minted     State = "MINTED"      // the candidate is durable in the store
	Set        State = "SET"         // the target (for a certificate: the issuer) knows the candidate
	Tested     State = "TESTED"      // the candidate was proven usable before anyone sees it
	Published  State = "PUBLISHED"   // consumers can see the candidate; not all are proven to use it
	Converged  State = "CONVERGED"   // every consumer is proven to use the candidate
	Retired    State = "RETIRED"     // the previous credential is erased
	ProvenDead State = "PROVEN_DEAD" // the previous credential is proven refused

	NotDue      State = "NOT_DUE"     // nothing was to be done; no rotation was opened
	Superseded  State = "SUPERSEDED"  // a newer epoch exists; this run stopped without effect
	Aborted     State = "ABORTED"     // ended before anything was published
	RolledBack  State = "ROLLED_BACK" // the previous credential was restored and verified
	Quarantined State = "QUARANTINED" // stopped for a person: what is true is not what we left
)

// Ended reports whether no further step follows by itself.
func (s State) Ended() bool {
	switch s {
	case Retired, ProvenDead, NotDue, Superseded, Aborted, RolledBack, Quarantined:
		return true
	}
	return false
}

// Trigger says why a rotation was asked for.
type Trigger struct {
	Source     string `json:"source,omitempty"`     // schedule, operator, emergency
	Actor      string `json:"actor,omitempty"`      // verified identity for operators, schedule id for schedules
	Reason     string `json:"reason,omitempty"`     // one sentence for the evidence
	Now        bool   `json:"now,omitempty"`        // rotate although the policy says it is not due yet
	Anytime    bool   `json:"anytime,omitempty"`    // ignore maintenance windows (never blackouts of compromise)
	Compromise bool   `json:"compromise,omitempty"` // revoke the previous credential and prove it refused
	Until      State  `json:"until,omitempty"`      // stop after this state: only TESTED is allowed
}

// OpenRequest asks for the rotation that this run shall drive.
type OpenRequest struct {
	Target  string  `json:"target"`
	Run     string  `json:"run"` // first run id of the workflow: the same after a reset
	Trigger Trigger `json:"trigger"`

	Rotation RotationID `json:"rotation,omitempty"` // only tell how this one stands; open nothing
}

// Verdict is a decision with a machine reason and a sentence for people.
type Verdict struct {
	Due      bool      `json:"due"`
	Reason   string    `json:"reason"`            // from the fixed set in internal/policy
	Sentence string    `json:"sentence"`          // "renews at 2/3 of its lifetime, reached 2026-03-01T10:00:00Z"
	Wait     time.Time `json:"wait,omitzero"`     // due, but not before this moment (window, blackout, exclusion)
	DueAt    time.Time `json:"due_at,omitzero"`   // when it becomes or became due; the jittered moment, never re-rolled
	Deadline time.Time `json:"deadline,omitzero"` // when the current credential ends by itself
}

// Wave is a set of deliveries published together and proven before the next wave. The first wave is
// the canary.
type Wave struct {
	Deliveries []string `json:"deliveries,omitempty"` // names from the configuration
	Consumers  []string `json:"consumers,omitempty"`  // consumers that must converge before the next wave
}

// Plan is what a run needs to know to drive a rotation. Nothing in it is secret.
type Plan struct {
	Verdict  Verdict    `json:"verdict"`
	Rotation RotationID `json:"rotation,omitempty"` // empty: no rotation was opened, Verdict says why
	Epoch    Epoch      `json:"epoch,omitempty"`
	Kind     string     `json:"kind,omitempty"`
	Host     string     `json:"host,omitempty"`     // the host whose privileged worker drives this target; empty: any
	State    State      `json:"state,omitempty"`    // where the rotation stands already (resumed after a restart)
	Observed bool       `json:"observed,omitempty"` // adopted observe-only: say what would happen, do nothing
	Waves    []Wave     `json:"waves,omitempty"`

	Previous   string    `json:"previous,omitempty"`   // fingerprint of the credential in use when the rotation began
	Candidate  Candidate `json:"candidate,omitzero"`   // as far as it exists already
	Compromise bool      `json:"compromise,omitempty"` // the previous credential must be proven refused

	Published bool `json:"published,omitempty"` // the candidate may be visible somewhere already
	Reverting bool `json:"reverting,omitempty"` // a rollback has begun: only the way back is left

	CanaryGrace time.Duration `json:"canary_grace,omitempty"` // how long a broken canary may stay broken before rollback
}

// StepRequest names the rotation that a step belongs to.
type StepRequest struct {
	Target   string     `json:"target"`
	Rotation RotationID `json:"rotation"`
	Epoch    Epoch      `json:"epoch"`
	Reason   string     `json:"reason,omitempty"` // for evidence: why this step is taken, when not by plan
	Actor    string     `json:"actor,omitempty"`  // who asked for it, when a person did
}

// Candidate describes the candidate's public part.
type Candidate struct {
	KeyID       string    `json:"key_id,omitempty"`      // SHA-256 of the public key, hex; or a version id for secrets
	Fingerprint string    `json:"fingerprint,omitempty"` // SHA-256 of the leaf, hex; empty before SET
	Serial      string    `json:"serial,omitempty"`
	NotBefore   time.Time `json:"not_before,omitzero"`
	NotAfter    time.Time `json:"not_after,omitzero"`
	Key         string    `json:"key,omitempty"`  // algorithm as the configuration spells it: ecdsa-p256 ...
	Lost        int       `json:"lost,omitempty"` // issuer replies that got lost: certificates issued and not received
}

// Outlived reports whether the candidate has so little of its life left, a quarter, that waiting for
// stragglers with it would let it run out for those who use it.
func (c Candidate) Outlived(now time.Time) bool {
	return !c.NotAfter.IsZero() && c.NotAfter.Sub(now) <= c.NotAfter.Sub(c.NotBefore)/4
}

// Proof is the outcome of a check on the target, with when and by what it was made.
type Proof struct {
	At       time.Time `json:"at,omitzero"`
	Sentence string    `json:"sentence,omitempty"`
	Evidence []string  `json:"evidence,omitempty"` // ids of ledger records
}

// PublishRequest publishes a candidate to some of its deliveries.
type PublishRequest struct {
	StepRequest
	Deliveries []string `json:"deliveries"`
}

// PublishResult says what consumers can see now.
type PublishResult struct {
	Proof Proof `json:"proof"`
}

// ConvergeRequest asks which consumers use the candidate right now.
type ConvergeRequest struct {
	StepRequest
	Fingerprint string        `json:"fingerprint"` // the candidate that must be served
	Previous    string        `json:"previous,omitempty"`
	Consumers   []string      `json:"consumers"`
	Last        bool          `json:"last,omitempty"`     // every other consumer is proven already
	Patience    time.Duration `json:"patience,omitempty"` // how long one attempt keeps looking before it reports stragglers
}

// Standing is what one consumer was seen to use.
type Standing string

const (
	UsesCandidate Standing = "candidate" // proven
	UsesPrevious  Standing = "previous"  // a straggler
	Broken        Standing = "broken"    // refuses connections, or serves something that does not verify
	Unverifiable  Standing = "unverifiable"
)

// Straggler is a consumer address that is not proven to use the candidate.
type Straggler struct {
	Consumer string    `json:"consumer"`
	Address  string    `json:"address,omitempty"`
	Standing Standing  `json:"standing"`
	Serves   string    `json:"serves,omitempty"` // fingerprint that it serves
	Since    time.Time `json:"since,omitzero"`   // first seen in this standing during this rotation
	Detail   string    `json:"detail,omitempty"`
}

// ConvergeResult lists who is proven and who is missing.
type ConvergeResult struct {
	Proof      Proof       `json:"proof"`
	Converged  []string    `json:"converged,omitempty"` // consumers, all of whose addresses are proven
	Stragglers []Straggler `json:"stragglers,omitempty"`
	Addresses  int         `json:"addresses,omitempty"` // how many addresses were probed
	Seen       []Straggler `json:"-"`                   // every address, for the evidence; too large for a history
}

// RetireRequest retires the previous credential. Evidence must name the records that prove
// convergence; a retirement without them is refused.
type RetireRequest struct {
	StepRequest
	Converged []string `json:"converged"`      // ledger record ids
	Dead      bool     `json:"dead,omitempty"` // the previous credential was proven refused
}

// EndRequest closes a rotation in a state other than RETIRED.
type EndRequest struct {
	StepRequest
	State State `json:"state"`
}

// DeathResult says whether the previous credential is proven refused.
type DeathResult struct {
	Proof       Proof    `json:"proof"`
	Proven      bool     `json:"proven"`
	NotProvable []string `json:"not_provable,omitempty"` // consumers that would still accept it, and why
}

// The steps of a rotation. Each observes, decides, acts under a precondition and observes again, so
// each may be repeated at will; each appends its intent and its outcome to the evidence ledger.
var (
	Open     = Define[OpenRequest, Plan]("rotate.open", Privileged, Patient)
	Mint     = Define[StepRequest, Candidate]("rotate.mint", Privileged, Patient)
	SetStep  = Define[StepRequest, Candidate]("rotate.set", Privileged, Patient)
	Test     = Define[StepRequest, Proof]("rotate.test", Privileged, Short)
	Publish  = Define[PublishRequest, PublishResult]("rotate.publish", Privileged, Patient)
	Converge = Define[ConvergeRequest, ConvergeResult]("rotate.converge", Observe, Watching)
	Retire   = Define[RetireRequest, Proof]("rotate.retire", Privileged, Unending)
	Prove    = Define[StepRequest, DeathResult]("rotate.prove", Privileged, Unending)
	Rollback = Define[StepRequest, PublishResult]("rotate.rollback", Privileged, Unending)
	End      = Define[EndRequest, Proof]("rotate.end", Privileged, Unending)
)

// SweepRequest asks for targets that are due.
type SweepRequest struct {
	Limit  int    `json:"limit,omitempty"`
	Cursor string `json:"cursor,omitempty"`
}

// DueTarget is a target that a sweep found due.
type DueTarget struct {
	Target string    `json:"target"`
	Host   string    `json:"host,omitempty"`
	Kind   string    `json:"kind,omitempty"`
	DueAt  time.Time `json:"due_at,omitzero"`
}

// SweepResult lists what is due; its size depends on what is due, never on what exists.
type SweepResult struct {
	Due    []DueTarget `json:"due,omitempty"`
	Cursor string      `json:"cursor,omitempty"` // empty: no more
}

// SuccessRequest records that a schedule's work succeeded, for the watchdog.
type SuccessRequest struct {
	Schedule string    `json:"schedule"`
	At       time.Time `json:"at"`
}

// HoldRequest asks that a failing target is left out of the sweep for a while.
type HoldRequest struct {
	Target string `json:"target"`
	Reason string `json:"reason"`
	Run    string `json:"run"` // holding again for the same run counts no further failure
}

var (
	// Hold backs a failing target off, so that it is not hammered: a minute after the first failure,
	// twice as long after each further one, six hours at most. The sweep itself is never paused for it.
	Hold = Define[HoldRequest, struct{}]("record.hold", Record, Short)
	// Sweep finds due targets by an index in the service database.
	Sweep = Define[SweepRequest, SweepResult]("record.sweep", Record, Short)
	// Succeeded writes the schedule's last-success row.
	Succeeded = Define[SuccessRequest, struct{}]("record.succeeded", Record, Short)
)
