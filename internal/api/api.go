// Package api is what people, the command line and the zones talk to: a small JSON interface over
// mutual TLS, with one server (in `castellan serve` and castellan-dev) and one client.
//
// Who may do what follows from the caller's verified identity: zones may only submit evidence, viewers
// may only read, operators may act. Every act is answered with what happened, never with "accepted".
package api

import (
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/servicedb"
	"castellan.dev/schedules"
	"castellan.dev/workflows/rotation"
)

// Certificate is one target as the inventory knows it.
type Certificate struct {
	Name         string           `json:"name"`
	Owner        string           `json:"owner,omitempty"`
	Policy       string           `json:"policy,omitempty"`
	Group        string           `json:"group,omitempty"`
	Observed     bool             `json:"observed,omitempty"` // adopted: watched, never changed
	Fingerprint  string           `json:"fingerprint,omitempty"`
	Serial       string           `json:"serial,omitempty"`
	Key          string           `json:"key,omitempty"`
	NotBefore    time.Time        `json:"not_before,omitzero"`
	NotAfter     time.Time        `json:"not_after,omitzero"`
	DueAt        time.Time        `json:"due_at,omitzero"`
	HeldUntil    time.Time        `json:"held_until,omitzero"`
	HoldReason   string           `json:"hold_reason,omitempty"`
	Failures     int              `json:"failures,omitempty"`
	LastRotation string           `json:"last_rotation,omitempty"`
	State        activities.State `json:"state,omitempty"`
	Consumers    []Consumer       `json:"consumers,omitempty"` // only when one certificate is shown
}

// Consumer is what one address of a consumer was last seen to use.
type Consumer struct {
	Consumer string              `json:"consumer"`
	Address  string              `json:"address"`
	Standing activities.Standing `json:"standing"`
	Serves   string              `json:"serves,omitempty"`
	Since    time.Time           `json:"since,omitzero"`
	SeenAt   time.Time           `json:"seen_at,omitzero"`
}

// Rotation is the record of one rotation.
type Rotation struct {
	ID          activities.RotationID  `json:"id"`
	Target      string                 `json:"target"`
	Epoch       activities.Epoch       `json:"epoch"`
	State       activities.State       `json:"state"`
	Trigger     activities.Trigger     `json:"trigger"`
	Workflow    string                 `json:"workflow,omitempty"`
	Run         string                 `json:"run,omitempty"`
	Started     time.Time              `json:"started,omitzero"`
	Updated     time.Time              `json:"updated,omitzero"`
	Published   time.Time              `json:"published,omitzero"`
	Ended       time.Time              `json:"ended,omitzero"`
	Fingerprint string                 `json:"fingerprint,omitempty"`
	NotAfter    time.Time              `json:"not_after,omitzero"`
	Previous    string                 `json:"previous,omitempty"`
	Sentence    string                 `json:"sentence,omitempty"`
	Stragglers  []activities.Straggler `json:"stragglers,omitempty"`
}

// List is one page of something.
type List[T any] struct {
	Items  []T    `json:"items"`
	Cursor string `json:"cursor,omitempty"` // empty: no more
}

// RotateRequest asks for a rotation now.
type RotateRequest struct {
	Reason     string           `json:"reason,omitempty"`
	Scheduled  bool             `json:"scheduled,omitempty"`  // only if it is due, and in its window
	Compromise bool             `json:"compromise,omitempty"` // revoke the previous and prove it refused
	Until      activities.State `json:"until,omitempty"`      // TESTED: stop before publishing
}

// Started says which workflow drives a rotation.
type Started struct {
	Workflow string `json:"workflow"`
	Run      string `json:"run"`
	Running  bool   `json:"running,omitempty"` // it was under way already
}

// MessageRequest is what a person tells a running rotation.
type MessageRequest struct {
	Reason string `json:"reason,omitempty"`
}

// Live is a rotation as its workflow knows it at this moment.
type Live struct {
	rotation.State
	Status string           `json:"status"` // of the workflow: running, completed, failed ...
	Result *rotation.Result `json:"result,omitempty"`
	Error  string           `json:"error,omitempty"`
}

// Schedules is the difference between declared and actual schedules.
type Schedules struct {
	Plan schedules.Plan `json:"plan"`
	Text string         `json:"text"`
}

// Problem is the body of every refusal: one sentence, and a hint where there is one.
type Problem struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Kind  string `json:"kind,omitempty"`
}

func certificateOf(t servicedb.Target) Certificate {
	return Certificate{
		Name: t.Name, Owner: t.Owner, Policy: t.Policy, Group: t.ExclusionGroup, Observed: t.Observed,
		Fingerprint: t.Current.Fingerprint, Serial: t.Current.Serial, Key: t.Current.KeyAlgorithm,
		NotBefore: t.Current.NotBefore, NotAfter: t.Current.NotAfter, DueAt: t.DueAt,
		HeldUntil: t.HeldUntil, HoldReason: t.HoldReason, Failures: t.Failures,
		LastRotation: string(t.LastRotation), State: t.LastState,
	}
}

func rotationOf(r servicedb.Rotation) Rotation {
	return Rotation{
		ID: r.ID, Target: r.Target, Epoch: r.Epoch, State: r.State, Trigger: r.Trigger,
		Workflow: r.Workflow, Run: r.Run, Started: r.Started, Updated: r.Updated, Published: r.Published, Ended: r.Ended,
		Fingerprint: r.Candidate.Fingerprint, NotAfter: r.Candidate.NotAfter, Previous: r.Previous.Fingerprint,
		Sentence: r.Sentence, Stragglers: r.Stragglers,
	}
}
