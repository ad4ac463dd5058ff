package ledger

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// What may be wrong with an export or a proof. The strings are API: never change one.
const (
	Malformed    = "malformed"     // not in the form of an export, a proof or a record
	Edited       = "edited"        // a record is not the one that was recorded
	Missing      = "missing"       // records were dropped
	Displaced    = "displaced"     // a record stands where another belongs: swapped, inserted or moved
	Duplicated   = "duplicated"    // an id occurs twice
	Truncated    = "truncated"     // the end is missing
	Forked       = "forked"        // two histories were signed
	Resigned     = "re-signed"     // signed by a key that does not descend from the one that should sign
	BadSignature = "bad signature" // a checkpoint or a key change without a valid signature
	OtherLog     = "other log"     // belongs to another ledger
)

// What may be worth a look without being broken.
const (
	OpenIntent    = "open intent"            // an effect was announced and its outcome never recorded
	LoneOutcome   = "outcome without intent" // an outcome was recorded and the effect never announced
	ClockBackward = "clock went back"        // a record was received before the one before it
)

// maxListed bounds how many problems and findings a report lists; all are counted.
const maxListed = 1000

// Problem is something that breaks the evidence.
type Problem struct {
	What     string `json:"what"`
	First    int64  `json:"first,string"` // first record concerned, -1 when it is none in particular
	Last     int64  `json:"last,string"`  // last one
	ID       string `json:"id,omitempty"` // when it is one record
	Sentence string `json:"sentence"`
}

// Finding is something that an auditor may ask about.
type Finding struct {
	What     string `json:"what"`
	Index    int64  `json:"index,string"`
	ID       string `json:"id"`
	Sentence string `json:"sentence"`
}

// Report says what was verified, what is wrong, and what could not be checked.
type Report struct {
	Origin     string    `json:"origin"`
	From       int64     `json:"from,string"`       // first record in the file
	To         int64     `json:"to,string"`         // the record after the last
	Size       int64     `json:"size,string"`       // records that the checkpoint covers
	Root       string    `json:"root,omitempty"`    // root hash of the checkpoint
	Key        string    `json:"key,omitempty"`     // the key that signed the checkpoint
	Problems   []Problem `json:"problems"`          // by record, those of no record in particular last
	Findings   []Finding `json:"findings"`          // by record
	Checked    []string  `json:"checked"`           // in sentences
	NotChecked []string  `json:"not_checked"`       // in sentences
	Unlisted   int       `json:"unlisted,omitzero"` // problems and findings beyond what is listed
}

// OK reports whether nothing is wrong. It says nothing about what was not checked: see Complete.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

// Complete reports whether nothing is wrong and everything could be checked.
func (r *Report) Complete() bool { return r.OK() && len(r.NotChecked) == 0 }

// First returns the first problem, or false.
func (r *Report) First() (Problem, bool) {
	if r.OK() {
		return Problem{}, false
	}
	return r.Problems[0], true
}

func (r *Report) problem(what string, first, last int64, id, format string, args ...any) {
	if len(r.Problems) >= maxListed {
		r.Unlisted++
		return
	}
	r.Problems = append(r.Problems, Problem{what, first, last, clip(id), clip(fmt.Sprintf(format, args...))})
}

func (r *Report) finding(what string, index int64, id, format string, args ...any) {
	if len(r.Findings) >= maxListed {
		r.Unlisted++
		return
	}
	r.Findings = append(r.Findings, Finding{what, index, clip(id), clip(fmt.Sprintf(format, args...))})
}

// clip bounds what a file can put into a report.
func clip(text string) string {
	const limit = 1 << 10
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "..."
}

func (r *Report) checked(format string, args ...any) {
	r.Checked = append(r.Checked, fmt.Sprintf(format, args...))
}

func (r *Report) notChecked(format string, args ...any) {
	r.NotChecked = append(r.NotChecked, fmt.Sprintf(format, args...))
}

// brokenWithin reports whether a problem names a record from first to last-1.
func (r *Report) brokenWithin(first, last int64) bool {
	return slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.First >= 0 && p.First < last && p.Last >= first })
}

// sort brings problems and findings in the order of records.
func (r *Report) sort() {
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		if (a.First < 0) != (b.First < 0) {
			return cmp.Compare(b.First, a.First)
		}
		return cmp.Compare(a.First, b.First)
	})
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(a.Index, b.Index) })
}

// Write writes the report for people.
func (r *Report) Write(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "log %s, records %d to %d of %d\n", r.Origin, r.From, r.To-1, r.Size)
	for _, p := range r.Problems {
		fmt.Fprintf(&out, "BROKEN       %s: %s\n", p.What, p.Sentence)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&out, "finding      %s: %s\n", f.What, f.Sentence)
	}
	for _, sentence := range r.Checked {
		fmt.Fprintf(&out, "checked      %s\n", sentence)
	}
	for _, sentence := range r.NotChecked {
		fmt.Fprintf(&out, "NOT CHECKED  %s\n", sentence)
	}
	if r.Unlisted > 0 {
		fmt.Fprintf(&out, "and %d more\n", r.Unlisted)
	}
	fmt.Fprintln(&out, r.verdict())
	_, err := io.WriteString(w, strings.Map(printable, out.String()))
	return err
}

// printable keeps what a forged file says from steering a terminal.
func printable(c rune) rune {
	if c != '\n' && !unicode.IsPrint(c) {
		return unicode.ReplacementChar
	}
	return c
}

func (r *Report) verdict() string {
	switch {
	case !r.OK():
		return "the evidence is BROKEN"
	case !r.Complete():
		return "nothing is broken in what could be checked"
	}
	return "the evidence is intact"
}
