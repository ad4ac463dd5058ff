package ledger

import (
	"bytes"
	"fmt"

	"github.com/gowebpki/jcs"
)

// Canonical returns the canonical form (RFC 8785) of a JSON text. Numbers are IEEE 754 doubles there,
// which is why records have none: what must be exact is a string.
func Canonical(text []byte) ([]byte, error) {
	canonical, err := jcs.Transform(text)
	if err != nil {
		return nil, fmt.Errorf("canonicalize: %w", err)
	}
	return canonical, nil
}

// isCanonical reports whether text is the canonical form of the record that was decoded from it. A record
// with fields that this version does not know takes the long way.
func isCanonical(text []byte, r Record) bool {
	if again, err := encode(r); err == nil && bytes.Equal(again, text) {
		return true
	}
	canonical, err := jcs.Transform(text)
	return err == nil && bytes.Equal(canonical, text)
}
