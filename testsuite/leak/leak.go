// Package leak searches whatever a run left behind for canary secrets: files, databases with their
// write-ahead logs, captured output, exported histories, process arguments.
//
// A test gives every secret that enters castellan a recognisable value, a [Canary], lets the program
// run, and then calls [Check] with everything that must not hold one. Canaries are found plain, in
// base64 (both alphabets, at every alignment, and encoded twice), in hex, URL-escaped, JSON-escaped,
// quoted by Go, printed as a list of numbers, as a PEM body without its line breaks, as the bare
// private scalar of a key, broken over lines, and inside gzip and zlib streams. A hit names source,
// place and form, never the value.
//
// It is meant for tests. It cannot see through encryption, nor through an encoding not named above.
package leak

import (
	"crypto/rand"
	"fmt"
	"testing"

	"castellan.dev/internal/secret"
)

// Canary is a secret to search for. Values shorter than eight bytes are refused: chance would find
// them.
type Canary struct {
	Name  string // names the place where it entered; printed
	Value secret.Bytes

	random bool // no part of the value occurs elsewhere, so each half may be searched alone
}

// New returns a canary with a value of the caller's choice. The value of a private key is its PEM
// block.
func New(name, value string) Canary {
	return Canary{Name: name, Value: secret.New([]byte(value))}
}

// Random returns a canary with a fresh random value that is found even where it was cut in two, as
// database pages do. Its characters include those that JSON, URLs and base64 treat specially.
func Random(name string) Canary {
	value := rand.Text() + `/+"<é&` + rand.Text()
	return Canary{Name: name, Value: secret.New([]byte(value)), random: true}
}

// Hit is a place where a canary was found.
type Hit struct {
	Canary string
	Source string // which source, with the streams around it: "dir/app.log > gzip at 512"
	Form   string // how it was written: "base64 of json"
	Offset int    // where in the source, or in its innermost stream
}

// String describes the hit without its value.
func (h Hit) String() string {
	return fmt.Sprintf("canary %q found in %s at %d as %s", h.Canary, h.Source, h.Offset, h.Form)
}

// Search looks for every canary in every source. It returns one hit per canary, source and form, and
// an error for whatever it could not search: an unread source is not a clean one.
func Search(canaries []Canary, sources ...Source) ([]Hit, error) {
	index, err := newIndex(canaries)
	if err != nil {
		return nil, err
	}
	var hits []Hit
	for _, source := range sources {
		err := source(func(name string, content []byte) {
			if inName := index.scan("a source's own name", []byte(name)); len(inName) > 0 {
				hits = append(hits, inName...)
				name = "(name withheld)"
			}
			hits = append(hits, index.search(name, content, 0)...)
		})
		if err != nil {
			return hits, fmt.Errorf("search for canaries: %w", err)
		}
	}
	return hits, nil
}

// Check fails the test for every hit and for every source that could not be searched.
func Check(t testing.TB, canaries []Canary, sources ...Source) {
	t.Helper()
	hits, err := Search(canaries, sources...)
	for _, hit := range hits {
		t.Error(hit)
	}
	if err != nil {
		t.Error(err)
	}
}
