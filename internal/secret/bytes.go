// Package secret holds the one type in which castellan carries secret bytes through its own memory.
//
// Use it for every value that must never reach a log, an error, a metric, a payload or a document:
// all the ways in which Go prints or encodes a value yield a fixed word instead. It protects against
// accidents, not against code in the same process, and it does not lock memory.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what every printed or encoded secret looks like.
const Redacted = "[redacted]"

// Bytes is a secret value. The zero value is an empty secret.
//
// The bytes sit behind a function, because fmt cannot call methods on values in unexported fields:
// there it would print a slice, and with a wrong verb even what a pointer points to.
type Bytes struct {
	value func() *[]byte
}

// New returns a secret that takes over value: the caller must not keep or change it.
func New(value []byte) Bytes { return Bytes{value: func() *[]byte { return &value }} }

// Reveal returns the value itself. Callers must not print, keep or change it.
func (b Bytes) Reveal() []byte {
	if b.value == nil {
		return nil
	}
	return *b.value()
}

// Len returns the number of bytes.
func (b Bytes) Len() int { return len(b.Reveal()) }

// Equal compares two secrets in constant time for a given length.
func (b Bytes) Equal(other Bytes) bool {
	return subtle.ConstantTimeCompare(b.Reveal(), other.Reveal()) == 1
}

// Destroy overwrites the value for every copy of b. Copies that the runtime made while it moved
// memory are out of reach.
func (b Bytes) Destroy() {
	clear(b.Reveal())
	if b.value != nil {
		*b.value() = nil
	}
}

// String returns the fixed word.
func (Bytes) String() string { return Redacted }

// GoString returns the fixed word.
func (Bytes) GoString() string { return Redacted }

// Format writes the fixed word for every verb, %x and %d included.
func (Bytes) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, Redacted) }

// MarshalJSON encodes the fixed word.
func (Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// MarshalText encodes the fixed word.
func (Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalYAML encodes the fixed word.
func (Bytes) MarshalYAML() (any, error) { return Redacted, nil }

// LogValue returns the fixed word.
func (Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }
