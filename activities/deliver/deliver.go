// Package deliver is the contract of deliveries: how a certificate and its key become visible to the
// programs that use them. A kind of delivery is a folder below; all pass the delivery conformance
// suite in testsuite/conformance.
package deliver

import (
	"context"
	"time"

	"castellan.dev/activities"
)

// Material is what is delivered. Key is secret: it must reach nothing but the target.
type Material struct {
	Rotation    activities.RotationID
	Epoch       activities.Epoch
	Fingerprint string // SHA-256 of the leaf, lower-case hex
	Chain       []byte // PEM, leaf first
	Key         []byte // PEM, PKCS #8
	Bundle      []byte // PEM trust anchors; may be empty
	NotAfter    time.Time
}

// Visible is what a delivery was observed to hold.
type Visible struct {
	Fingerprint string           // of the leaf that consumers can read now; empty: nothing delivered yet
	Chain       []byte           // PEM of what they read, leaf first; public
	Epoch       activities.Epoch // of the last write by castellan; zero: none yet
	Foreign     bool             // the content differs from what castellan last wrote there
	NotAfter    time.Time
}

// Deliverer makes a candidate visible. Implementations observe, compare the fence, act under a
// precondition and observe again.
//
// Fencing: every write records its epoch at the target. A write with an epoch lower than the recorded
// one is refused with activities.Fenced and changes nothing; one with the same epoch and fingerprint
// is a no-op. A foreign writer's change since the last observation is activities.Conflict and is left
// untouched.
type Deliverer interface {
	// Observe says what consumers can read now. It changes nothing.
	Observe(ctx context.Context) (Visible, error)
	// Publish makes the material visible in one atomic step and keeps what was there for Restore.
	// Expected is the fingerprint that the caller last observed there (empty: nothing).
	Publish(ctx context.Context, material Material, expected string) (Visible, error)
	// Restore makes what was visible before the publication of epoch `of` visible again, under the newer
	// epoch `under`. It is activities.NotFound when nothing was kept.
	Restore(ctx context.Context, of, under activities.Epoch) (Visible, error)
	// Retire erases what was kept before the publication of epoch. Idempotent.
	Retire(ctx context.Context, epoch activities.Epoch) error
}

// Reloader makes running programs notice what was delivered. Reloading twice is harmless: the same
// fingerprint must not cause a second restart.
type Reloader interface {
	Reload(ctx context.Context, fingerprint string) error
}
