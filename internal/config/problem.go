package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	File  string
	Line  int    // 0 if it belongs to no line
	Field string // path of the field, such as certificates.payments.lifetime; empty for the whole file
	Value string // what stands there; empty if it is missing
	Want  string // what should stand there
}

// String returns one line such as
//
//	castellan.yaml:12: certificates.payments.lifetime: got "2 monts", want a duration such as 720h or 30d
func (p Problem) String() string {
	var text strings.Builder
	text.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&text, ":%d", p.Line)
	}
	text.WriteString(": ")
	if p.Field != "" {
		text.WriteString(p.Field + ": ")
	}
	if p.Value == "" {
		text.WriteString("missing")
	} else {
		fmt.Fprintf(&text, "got %q", shorten(p.Value))
	}
	return text.String() + ", want " + p.Want
}

// Problems lists everything that is wrong with a configuration, in the order of its lines. An empty
// list means that nothing is.
type Problems []Problem

// Error returns all problems, one per line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns the problems as an error, nil if there are none.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// sorted returns the problems in the order of their lines, without exact repetitions.
func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field))
	})
	return slices.Compact(p)
}

// shorten keeps a message readable when somebody pasted a whole file into a field.
func shorten(value string) string {
	const most = 80
	if runes := []rune(value); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return value
}
