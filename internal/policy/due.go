package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"time"
)

// plan is when a credential is to be replaced, by its dates alone.
type plan struct {
	due     time.Time // without jitter
	at      time.Time // with jitter
	latest  time.Time // a rotation that begins later may not end before the credential does
	because string    // "renews at 2/3 of its lifetime"
}

// schedule returns the plan for the current credential.
func (p Policy) schedule(target string, observed Observed) plan {
	lifetime := observed.lifetime()
	if lifetime <= 0 {
		return plan{due: observed.NotBefore, at: observed.NotBefore, latest: observed.NotBefore, because: "has no lifetime"}
	}
	var s plan
	switch {
	case p.RenewBefore > 0 && p.RenewBefore < lifetime:
		s.due = observed.NotAfter.Add(-p.RenewBefore)
		s.because = fmt.Sprintf("renews %s before its end", FormatDuration(p.RenewBefore))
	case p.RenewBefore > 0:
		// Renewing at once would go on for ever: the successor is as short.
		s.due = observed.NotBefore.Add(DefaultRenewAt.Of(lifetime))
		s.because = fmt.Sprintf("renews at %s of its lifetime, which is shorter than %s", DefaultRenewAt, FormatDuration(p.RenewBefore))
	default:
		at := p.RenewAt
		if at.IsZero() {
			at = DefaultRenewAt
		}
		s.due = observed.NotBefore.Add(at.Of(lifetime))
		s.because = fmt.Sprintf("renews at %s of its lifetime", at)
	}
	// The last quarter of what remains belongs to the rotation itself: neither jitter nor waiting for a
	// window may use it up.
	reserve := observed.NotAfter.Sub(s.due) / 4
	s.latest = observed.NotAfter.Add(-reserve)
	spread := min(p.jitter(lifetime), s.latest.Sub(s.due))
	s.at = s.due.Add(offset(target, observed.Fingerprint, spread))
	return s
}

// offset returns the share of the jitter that falls to one credential of one target, from 0 to spread.
//
// It is derived from a hash of target and fingerprint instead of being drawn. A decision is evaluated
// again and again - by every sweep, by every attempt, in replay - and a moment that was drawn anew each
// time would move, possibly for ever ahead of the clock. This way it is picked once, when the issuer
// signs the credential: nobody has to store it, every process computes the same one, an auditor can
// too, and it changes only with the credential itself. Nobody can choose it either, because nobody
// chooses the fingerprint.
func offset(target, fingerprint string, spread time.Duration) time.Duration {
	if spread <= 0 {
		return 0
	}
	sum := sha256.Sum256([]byte("castellan/jitter/1\x00" + target + "\x00" + fingerprint))
	// The high half of the product maps 64 uniform bits onto [0, spread] without a modulus.
	high, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:8]), uint64(spread)+1)
	return time.Duration(high)
}
