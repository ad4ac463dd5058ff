package ledger

import (
	"bytes"
	"encoding/json"
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

// encode returns the canonical form of a value whose JSON has no numbers.
func encode(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return Canonical(text)
}

// isCanonical reports whether text is the canonical form of what it says.
func isCanonical(text []byte) bool {
	canonical, err := jcs.Transform(text)
	return err == nil && bytes.Equal(canonical, text)
}
