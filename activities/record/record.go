// Package record is the contract of evidence: what every effect leaves behind for an auditor, before
// and after it happens.
package record

import (
	"context"
	"time"

	"castellan.dev/activities"
)

// Phase says on which side of the effect an entry was made.
type Phase string

const (
	Intent  Phase = "intent"  // appended before the effect; no effect without it
	Outcome Phase = "outcome" // appended after the effect was observed
	Fact    Phase = "fact"    // an observation without effect: a handshake, a decision, a person's word
)

// Entry is one record as a zone submits it. It holds no secret: digests are of public material;
// secrets appear as keyed HMACs or version ids only. All fields are strings, times or maps of strings:
// the canonical form has no floats and large integers are strings.
type Entry struct {
	Workflow string                `json:"workflow"` // workflow id
	Run      string                `json:"run"`      // run id
	Step     string                `json:"step"`     // activity name, with a suffix when one activity has several effects
	Target   string                `json:"target"`
	Rotation activities.RotationID `json:"rotation,omitempty"`
	Epoch    activities.Epoch      `json:"epoch,string"`
	Phase    Phase                 `json:"phase"`
	Actor    string                `json:"actor"`            // zone identity, or the person who asked
	Reason   string                `json:"reason,omitempty"` // why
	Result   string                `json:"result,omitempty"` // for outcomes: ok, failed, fenced, conflict, ...
	At       time.Time             `json:"at"`               // by the zone's clock, RFC 3339 with nanoseconds
	Facts    map[string]string     `json:"facts,omitempty"`  // digests, fingerprints, addresses, dates
}

// Recorder appends entries to the ledger. An entry is identified by (workflow, step, epoch, phase):
// submitting it again returns the first record's id, whatever else differs, so that a repeated
// activity leaves one record. When Append returns nil the record is durable.
type Recorder interface {
	Append(ctx context.Context, entry Entry) (id string, err error)
}
