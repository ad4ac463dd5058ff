package ledger

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// signature checks who has signed a checkpoint of the file, and returns the key.
func (v *verifier) signature(c Checkpoint) (Key, bool) {
	if c.Origin != v.chain.origin {
		v.report.problem(OtherLog, -1, -1, "", "a checkpoint of %d records belongs to log %q", c.Size, c.Origin)
		return Key{}, false
	}
	key := v.chain.signing(c.Size)
	if c.signedBy(key) {
		return key, true
	}
	if by := v.chain.signer(c); by >= 0 {
		v.report.problem(Resigned, -1, -1, "", "the checkpoint of %d records is signed by %s, which was not in force there", c.Size, v.chain.links[by].key)
		return Key{}, false
	}
	v.report.problem(BadSignature, -1, -1, "", "the checkpoint of %d records is not signed by %s", c.Size, key)
	return Key{}, false
}

// inner checks a checkpoint between records.
func (v *verifier) inner(text string) {
	c, err := ParseCheckpoint(text)
	if err != nil {
		v.report.problem(Malformed, -1, -1, "", "the checkpoint before record %d cannot be read: %v", v.next, err)
		return
	}
	_, signed := v.signature(c)
	if v.treeless {
		return
	}
	if c.Size != v.tree.size {
		v.report.problem(Displaced, -1, -1, "", "the checkpoint of %d records stands after %d", c.Size, v.tree.size)
		return
	}
	if signed {
		v.compare(c)
	}
}

// compare compares a signed root with the records so far and names what cannot be right.
func (v *verifier) compare(c Checkpoint) bool {
	if v.tree.root() == c.Root {
		v.good = c.Size
		return true
	}
	if !v.report.brokenWithin(v.good, c.Size) {
		v.report.problem(Edited, v.good, c.Size-1, "", "records %d to %d are not those that were signed: one of them or more were changed together with their hashes", v.good, c.Size-1)
	}
	if v.claimed.root() == c.Root {
		// The stored hashes are the signed ones, so exactly the records without theirs were changed.
		v.tree, v.good = v.claimed.clone(), c.Size
	} else {
		v.treeless = true
	}
	return false
}

// outside compares the tree with the checkpoints from outside that have its size.
func (v *verifier) outside() {
	for len(v.options.Checkpoints) > 0 && v.options.Checkpoints[0].Size <= v.tree.size {
		c := v.options.Checkpoints[0]
		if c.Size < v.tree.size {
			break // before the range; answered at the end
		}
		v.options.Checkpoints = v.options.Checkpoints[1:]
		v.held = true
		if v.trusted(c) {
			v.agree(c, v.tree.root(), v.claimed.root())
		}
	}
}

// trusted checks that a checkpoint from outside is about this log and signed by one of its keys.
func (v *verifier) trusted(c Checkpoint) bool {
	switch {
	case c.Origin != v.chain.origin:
		v.report.problem(OtherLog, -1, -1, "", "the checkpoint of %d records from outside belongs to log %q", c.Size, c.Origin)
		return false
	case v.chain.signer(c) < 0:
		v.report.problem(Resigned, -1, -1, "", "the checkpoint of %d records from outside is signed by none of the log's keys: one of the two was signed again", c.Size)
		return false
	}
	return true
}

// agree compares a checkpoint from outside with the records and with the hashes that they claim. When only
// the latter agree, the records that do not have theirs are named already.
func (v *verifier) agree(c Checkpoint, root, claimed tlog.Hash) {
	if root != c.Root {
		if claimed != c.Root {
			v.forks = append(v.forks, c)
		}
		return
	}
	v.agreed = max(v.agreed, c.Size)
	v.report.checked("the first %d records are those that the checkpoint from outside has signed: since then the log only grew", c.Size)
}

// end checks the last checkpoint, which covers the whole log.
func (v *verifier) end(end exportEnd) {
	v.settleJump()
	c, err := ParseCheckpoint(end.Checkpoint)
	if err != nil {
		v.report.problem(Malformed, -1, -1, "", "the last checkpoint cannot be read: %v", err)
		return
	}
	v.report.Size, v.report.Root = c.Size, c.Root.String()
	key, signed := v.signature(c)
	v.report.Key = key.text
	if v.next < v.header.To {
		v.report.problem(Truncated, v.next, v.header.To-1, "", "records %d to %d, which the header promises, are missing", v.next, v.header.To-1)
		v.treeless = true
	}
	if v.next > v.header.To {
		v.report.problem(Malformed, v.header.To, v.next-1, "", "records %d to %d are more than the header announces", v.header.To, v.next-1)
	}
	if !v.treeless && signed {
		v.confirmed = v.graftRight(c, end.Right) && v.compare(c)
	}
	v.answerOutside(c, signed)
}

// graftRight adds the hashes right of the range.
func (v *verifier) graftRight(c Checkpoint, right []tlog.Hash) bool {
	size := v.tree.size
	list := cover(size, max(size, c.Size))
	if c.Size < size || len(list) != len(right) {
		v.report.problem(Malformed, -1, -1, "", "the last checkpoint, of %d records, does not fit %d records and %d hashes", c.Size, size, len(right))
		return false
	}
	for i, s := range list {
		if err := errors.Join(v.tree.graft(s.level, right[i]), v.claimed.graft(s.level, right[i])); err != nil {
			v.report.problem(Malformed, -1, -1, "", "the last line's hashes do not fit: %v", err)
			return false
		}
	}
	return true
}

// answerOutside answers for the checkpoints from outside that no record has reached.
func (v *verifier) answerOutside(last Checkpoint, signed bool) {
	for _, c := range v.options.Checkpoints {
		v.held = true
		switch {
		case !v.trusted(c):
		case c.Size > last.Size:
			v.report.problem(Truncated, last.Size, c.Size-1, "", "records %d to %d are missing: the checkpoint from outside covers %d records. Either they were cut off, or this file is older than that checkpoint", last.Size, c.Size-1, c.Size)
		case c.Size == last.Size && signed:
			v.agree(c, last.Root, last.Root)
		default:
			v.report.notChecked("whether the log only grew since the checkpoint of %d records from outside: the records in this file cannot be compared with it", c.Size)
		}
	}
	v.options.Checkpoints = nil
}

// ReadCheckpoints reads what somebody has kept: a checkpoint, a file of the second place, an export or a
// proof. An export stands for its last checkpoint.
func ReadCheckpoints(r io.Reader) ([]Checkpoint, error) {
	lines := lineReader{in: bufio.NewReaderSize(r, 1<<16)}
	var all strings.Builder
	var last string
	export := false
	for {
		text, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if lines.number == 1 && len(text) > 0 && text[0] == '{' {
			export = true
		}
		if !export {
			all.Write(text)
			all.WriteByte('\n')
			continue
		}
		if kept := keptCheckpoint(text); kept != "" {
			last = kept
		}
	}
	if export {
		c, err := ParseCheckpoint(last)
		return []Checkpoint{c}, err
	}
	list, _, err := splitCheckpoints(all.String() + "\n")
	if err == nil && len(list) == 0 {
		return nil, errors.New("read checkpoint: want three lines, an empty line and signatures")
	}
	return list, err
}

// keptCheckpoint returns the checkpoint in a line of an export or a proof, if there is one.
func keptCheckpoint(text []byte) string {
	var line struct {
		Checkpoint string
		End        *exportEnd
	}
	switch err := json.Unmarshal(text, &line); {
	case err != nil:
		return ""
	case line.End != nil:
		return line.End.Checkpoint
	}
	return line.Checkpoint
}
