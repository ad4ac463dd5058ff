// Package verify is the contract of verifiers: what does this consumer use right now, seen from the
// outside? A kind of verifier is a folder below; all pass the verifier conformance suite in
// testsuite/conformance.
package verify

import (
	"context"
	"time"

	"castellan.dev/activities"
)

// Expectation is what a converged consumer must be seen to use.
type Expectation struct {
	Fingerprint string // SHA-256 of the candidate's leaf, lower-case hex
	Previous    string // fingerprint of the previous leaf; may be empty
}

// Sighting is what one address of a consumer was seen to use, by a fresh connection.
type Sighting struct {
	Address  string
	Standing activities.Standing
	Serves   string // fingerprint; empty if no certificate was seen
	At       time.Time
	Detail   string // why it is broken or unverifiable
}

// Verifier looks at every address of one consumer. It returns one sighting per address; an error
// means that the addresses could not even be listed. A consumer without any address is not
// converged: the verifier returns one sighting that says so.
type Verifier interface {
	Verify(ctx context.Context, expectation Expectation) ([]Sighting, error)
}
