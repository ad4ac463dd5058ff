package ledger

import (
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// fringe is the right edge of a Merkle tree: the hashes of its complete subtrees, largest first, one
// per bit of the size. It is all that appending needs, and all that recomputing a root from a
// stream of records keeps in memory.
type fringe struct {
	size  int64
	nodes []tlog.Hash
}

// push appends a leaf and returns the hashes that it completes, in the order in which tlog stores
// them: the leaf itself, then ever larger subtrees.
func (f *fringe) push(leaf tlog.Hash) []tlog.Hash {
	completed := make([]tlog.Hash, 1, 1+bits.TrailingZeros64(^uint64(f.size)))
	completed[0] = leaf
	hash := leaf
	for level := 0; f.size>>level&1 == 1; level++ {
		hash = tlog.NodeHash(f.pop(), hash)
		completed = append(completed, hash)
	}
	f.nodes = append(f.nodes, hash)
	f.size++
	return completed
}

// graft appends a complete subtree of 2^level leaves. The size must be a multiple of that.
func (f *fringe) graft(level int, hash tlog.Hash) error {
	if level < 0 || level > 62 || f.size&(1<<level-1) != 0 {
		return fmt.Errorf("append subtree: level %d does not fit at %d", level, f.size)
	}
	size := f.size + 1<<level
	for l := level; f.size>>l&1 == 1; l++ {
		hash = tlog.NodeHash(f.pop(), hash)
	}
	f.nodes = append(f.nodes, hash)
	f.size = size
	return nil
}

func (f *fringe) pop() tlog.Hash {
	last := f.nodes[len(f.nodes)-1]
	f.nodes = f.nodes[:len(f.nodes)-1]
	return last
}

// root returns the hash of the whole tree.
func (f *fringe) root() tlog.Hash {
	if f.size == 0 {
		empty, _ := tlog.TreeHash(0, nil) // reads nothing, cannot fail
		return empty
	}
	hash := f.nodes[len(f.nodes)-1]
	for i := len(f.nodes) - 2; i >= 0; i-- {
		hash = tlog.NodeHash(f.nodes[i], hash)
	}
	return hash
}

func (f *fringe) clone() *fringe {
	return &fringe{f.size, slices.Clone(f.nodes)}
}

// subtree is a complete subtree of a tree: 2^level leaves, the n-th of its level.
type subtree struct {
	level int
	n     int64
}

func (s subtree) stored() int64 { return tlog.StoredHashIndex(s.level, s.n) }

// cover returns the fewest subtrees that cover the leaves lo to hi-1, from left to right.
func cover(lo, hi int64) []subtree {
	var list []subtree
	for lo < hi {
		level := bits.Len64(uint64(hi-lo)) - 1
		if lo > 0 {
			level = min(level, bits.TrailingZeros64(uint64(lo)))
		}
		list = append(list, subtree{level, lo >> level})
		lo += 1 << level
	}
	return list
}

// readSubtrees reads the hashes of subtrees.
func readSubtrees(r tlog.HashReader, list []subtree) ([]tlog.Hash, error) {
	if len(list) == 0 {
		return nil, nil
	}
	indexes := make([]int64, len(list))
	for i, s := range list {
		indexes[i] = s.stored()
	}
	return r.ReadHashes(indexes)
}

// readFringe reads the fringe of the tree with the given size.
func readFringe(r tlog.HashReader, size int64) (*fringe, error) {
	nodes, err := readSubtrees(r, cover(0, size))
	if err != nil {
		return nil, err
	}
	return &fringe{size, nodes}, nil
}
