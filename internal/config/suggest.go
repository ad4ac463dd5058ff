package config

import (
	"fmt"
	"slices"
	"strings"
)

// oneOf phrases the expectation that a value is one of some names, and proposes the one that was
// probably meant.
func oneOf(value string, names []string) string {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
	if len(names) == 0 {
		return "a name that is declared; none is"
	}
	want := "one of " + strings.Join(names, ", ")
	if len(names) == 1 {
		want = names[0]
	}
	if meant := closest(value, names); meant != "" && len(names) > 1 {
		want += fmt.Sprintf("; did you mean %q?", meant)
	}
	return want
}

// closest returns the name that a typing error most probably turned into value, or "".
func closest(value string, names []string) string {
	best, least := "", len(value)/3+2
	for _, name := range names {
		if d := distance(strings.ToLower(value), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements that turn a into b (Levenshtein).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
