package ledger

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// The tree must be the one that everybody else's tools compute.
func TestFringeAgreesWithTlog(t *testing.T) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	tree := &fringe{}
	roots := []tlog.Hash{tree.root()}
	for n := range int64(200) {
		body := fmt.Appendf(nil, "record %d", n)
		want, err := tlog.StoredHashes(n, body, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, want...)
		if got := tree.push(tlog.RecordHash(body)); !slices.Equal(got, want) {
			t.Fatalf("record %d completes %v, want %v", n, got, want)
		}
		roots = append(roots, tree.root())
	}
	for size, got := range roots {
		want, err := tlog.TreeHash(int64(size), reader)
		if err != nil || got != want {
			t.Errorf("size %d: got root %v, want %v (%v)", size, got, want, err)
		}
		read, err := readFringe(reader, int64(size))
		if err != nil || read.root() != want {
			t.Errorf("size %d: read root %v (%v), want %v", size, read.root(), err, want)
		}
	}
	for from := int64(0); from <= 200; from += 7 {
		for to := from; to <= 200; to += 11 {
			graft := &fringe{}
			for _, s := range slices.Concat(cover(0, from), cover(from, to), cover(to, 200)) {
				if err := graft.graft(s.level, stored[s.stored()]); err != nil {
					t.Fatal(err)
				}
			}
			if graft.root() != roots[200] {
				t.Errorf("the range %d to %d with both sides has root %v, want %v", from, to, graft.root(), roots[200])
			}
		}
	}
}

func TestGraftRefusesASubtreeThatDoesNotFit(t *testing.T) {
	tree := &fringe{}
	tree.push(tlog.RecordHash(nil))
	for _, level := range []int{-1, 1, 63} {
		if err := tree.graft(level, tlog.Hash{}); err == nil {
			t.Errorf("level %d was grafted at size 1", level)
		}
	}
}
