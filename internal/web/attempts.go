package web

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// Failed logins: the first few are free, then each one doubles the wait until the next is looked at.
const (
	freeFailures = 5
	longestWait  = 5 * time.Minute
	attemptSlots = 1024
)

// attempts slows down guessing. Everybody comes from loopback, so it counts by name; the names share a
// fixed number of counters, so that it tells nobody which names exist and takes bounded memory.
type attempts struct {
	now func() time.Time

	mu    sync.Mutex
	slots [attemptSlots]attempt
}

type attempt struct {
	failures int
	until    time.Time
}

func newAttempts(now func() time.Time) *attempts { return &attempts{now: now} }

func (a *attempts) slot(name string) *attempt {
	sum := sha256.Sum256([]byte(name))
	return &a.slots[binary.BigEndian.Uint16(sum[:])%attemptSlots]
}

// begin counts an attempt as failed before anything is looked at, so that many at once count too. It
// returns how long to wait when it is too early.
func (a *attempts) begin(name string) (wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	slot, now := a.slot(name), a.now()
	if now.Before(slot.until) {
		return slot.until.Sub(now)
	}
	if slot.failures > 0 && now.Sub(slot.until) > 2*longestWait {
		slot.failures = 0
	}
	slot.failures++
	slot.until = now
	if beyond := slot.failures - freeFailures; beyond >= 0 {
		slot.until = now.Add(min(longestWait, time.Second<<min(beyond, 16)))
	}
	return 0
}

// succeeded forgets the failures of a name.
func (a *attempts) succeeded(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*a.slot(name) = attempt{}
}
