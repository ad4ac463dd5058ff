package policy

import (
	"time"

	"castellan.dev/activities"
)

// Input is everything that a decision rests on.
type Input struct {
	Now      time.Time
	Target   string
	Observed Observed
	Desired  Desired
	Policy   Policy
	Trigger  activities.Trigger
	Held     Held
	Group    Group
	Paused   bool // by an operator; a compromise and a rotation in hand override it
	InHand   bool // a rotation was begun and not ended: it goes on whatever the policy says
}

// Observed is what is true about the current credential. Fields that could not be observed stay empty
// and are then not compared.
type Observed struct {
	Exists       bool
	NotBefore    time.Time
	NotAfter     time.Time
	Fingerprint  string // SHA-256 of the leaf; what the jitter is derived from
	KeyAlgorithm string // as in the configuration: ecdsa-p256, rsa-3072, ...
	CommonName   string
	DNSNames     []string
	IPAddresses  []string
	URIs         []string
	Usage        string // server, client or both
	Issuer       string // name in the configuration that it was issued by
}

// lifetime returns how long the credential lives altogether.
func (o Observed) lifetime() time.Duration { return o.NotAfter.Sub(o.NotBefore) }

// Desired is what the configuration asks for.
type Desired struct {
	KeyAlgorithm string
	CommonName   string
	DNSNames     []string
	IPAddresses  []string
	URIs         []string
	Usage        string
	Issuer       string
}

// Held says that a target is held back after failures.
type Held struct {
	Until  time.Time // zero: not held
	Reason string
}

// Group is what the other members of the target's exclusion group do.
type Group struct {
	Holder     string    // member with an open rotation; the target itself or empty: none
	Last       time.Time // when another member last began a rotation; zero: never
	LastMember string
}
