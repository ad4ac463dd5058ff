// Package rotate holds the saga's activities, written once for every kind of credential, and the
// contract that a kind fulfils. A kind is a folder below (tlscert, later postgres, vault ...).
package rotate

import (
	"context"
	"crypto/x509"

	"castellan.dev/activities"
)

// Rotation identifies the rotation that a kind works for.
type Rotation struct {
	Target     string
	ID         activities.RotationID
	Epoch      activities.Epoch
	Compromise bool
	Previous   Known              // what consumers used when the rotation began
	Leftover   []activities.Epoch // keys of earlier rotations that nobody erased; Retire erases them, too
	Expected   map[string]string  // delivery to the fingerprint seen there when the rotation began
}

// Observation is what is true on the target, in the words of its kind.
type Observation struct {
	Current   activities.Candidate // what consumers can see now; Fingerprint empty: nothing yet
	Epoch     activities.Epoch     // the highest epoch recorded at the target; zero: castellan never wrote there
	Delivered map[string]string    // delivery name to the fingerprint visible there
	Exists    bool                 // something is visible that can be read as a credential of this kind
	Leaf      *x509.Certificate    // for certificates: what is visible now
	Facts     map[string]string    // for the evidence; nothing secret
}

// Kind is what a kind of credential must do. Each method observes before it acts and again after,
// may be repeated, and is fenced by the rotation's epoch.
type Kind interface {
	// Observe says what is true on the target now. It changes nothing.
	Observe(ctx context.Context, target string) (Observation, error)
	// Mint makes the candidate durable in the store, keyed by the rotation. A repeat finds the first one.
	Mint(ctx context.Context, rotation Rotation) (activities.Candidate, error)
	// Set makes the target (for a certificate: the issuer) know the candidate.
	Set(ctx context.Context, rotation Rotation) (activities.Candidate, error)
	// Test proves the candidate usable before any consumer sees it.
	Test(ctx context.Context, rotation Rotation) (activities.Proof, error)
	// Publish makes the candidate visible to the consumers behind the named deliveries.
	Publish(ctx context.Context, rotation Rotation, deliveries []string) (activities.Proof, error)
	// Restore makes the previous credential visible again, under a newer epoch.
	Restore(ctx context.Context, rotation Rotation, under activities.Epoch, deliveries []string) (activities.Proof, error)
	// Retire erases the previous credential.
	Retire(ctx context.Context, rotation Rotation) (activities.Proof, error)
	// Discard erases a candidate that was never published.
	Discard(ctx context.Context, rotation Rotation) error
	// ProveDead revokes the previous credential where that is the way, and proves it refused.
	ProveDead(ctx context.Context, rotation Rotation) (activities.DeathResult, error)
}
