package ledger

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// maxLine bounds a line of an export: a record, its escapes and its hashes.
const maxLine = 2 << 20

// VerifyOptions is what the verifier holds from elsewhere. Without it, the report says what could not be
// checked.
type VerifyOptions struct {
	// Key is the pinned key: the one that began the log, or any later one.
	Key ed25519.PublicKey
	// Checkpoints come from a second place or from earlier exports: see [ReadCheckpoints].
	Checkpoints []Checkpoint
}

// Verify checks an export, or a proof of one record. It reads the file once, as a stream, and needs
// neither the ledger nor a network. The error says that the file could not be read; what is wrong in
// it is in the report.
func Verify(r io.Reader, options VerifyOptions) (*Report, error) {
	v := &verifier{
		lines:   lineReader{in: bufio.NewReaderSize(r, 1<<16)},
		options: options, report: &Report{Problems: []Problem{}, Findings: []Finding{}, Checked: []string{}, NotChecked: []string{}},
		ids: map[idPrefix]int64{}, open: map[idPrefix]openIntent{}, pinned: -1,
	}
	v.options.Checkpoints = slices.Clone(options.Checkpoints)
	slices.SortStableFunc(v.options.Checkpoints, func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	err := v.run()
	v.report.sort()
	return v.report, err
}

// verifier is the state of one verification.
type verifier struct {
	lines   lineReader
	options VerifyOptions
	report  *Report

	header exportHeader
	chain  *keyChain
	pinned int   // place of the pinned key in the chain, or -1
	seen   int64 // hand-overs that were found as records

	tree      *fringe // over the records as they are
	claimed   *fringe // over the leaf hashes as the export claims them
	treeless  bool    // records are missing or displaced: the tree can't be rebuilt from here on
	good      int64   // so many records are proven by a checkpoint, or precede the range
	suspect   bool    // a stored hash above the leaves contradicted them: later ones will, too
	forks     []Checkpoint
	agreed    int64 // so many records agree with a checkpoint from outside
	received  time.Time
	next      int64 // index that the next record should have
	jump      *jump
	ids       map[idPrefix]int64
	open      map[idPrefix]openIntent
	finished  bool
	held      bool // a checkpoint from outside was given
	confirmed bool // the last checkpoint is signed and matches the records
}

func (v *verifier) run() error {
	first, err := v.lines.next()
	if errors.Is(err, io.EOF) {
		v.report.problem(Malformed, -1, -1, "", "the file is empty")
		return nil
	}
	if err != nil {
		return err
	}
	var header struct{ Format string }
	if err := json.Unmarshal(first, &header); err != nil {
		v.report.problem(Malformed, -1, -1, "", "the first line is no JSON object")
		return nil
	}
	switch header.Format {
	case formatProof:
		v.proof(first)
		return nil
	case formatExport:
		return v.export(first)
	}
	v.report.problem(Malformed, -1, -1, "", "the file's format is %q, want %q or %q", header.Format, formatExport, formatProof)
	return nil
}

func (v *verifier) export(first []byte) error {
	if err := json.Unmarshal(first, &v.header); err != nil {
		v.report.problem(Malformed, -1, -1, "", "the header cannot be read: %v", err)
		return nil
	}
	h := v.header
	v.report.Origin, v.report.From, v.report.To, v.report.Size = h.Origin, h.From, h.From, h.To
	if !v.keys(h.Origin, h.Key, h.Changes) || !v.begin() {
		return nil
	}
	for !v.finished {
		text, err := v.lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		v.line(text)
	}
	v.conclude()
	if v.finished {
		if _, err := v.lines.next(); !errors.Is(err, io.EOF) {
			v.report.problem(Malformed, -1, -1, "", "something follows after the export's last line")
		}
	}
	return nil
}

// keys checks the chain of keys and finds the pinned one in it. It returns false when nothing can be
// checked without them.
func (v *verifier) keys(origin, first string, changes []string) bool {
	chain, err := newChain(first)
	if err != nil {
		v.report.problem(Malformed, -1, -1, "", "the first key cannot be read: %v", err)
		return false
	}
	v.chain = chain
	if chain.origin != origin {
		v.report.problem(OtherLog, -1, -1, "", "the first key belongs to log %q", chain.origin)
	}
	for i, text := range changes {
		if _, err := chain.extend(text); err != nil {
			v.report.problem(BadSignature, -1, -1, "", "key change %d is not valid: %v", i+1, err)
			return true // with the keys up to there
		}
	}
	if v.options.Key == nil {
		v.report.notChecked("who signed: no pinned key was given, and the log names its own, %s", first)
		return true
	}
	v.pinned = chain.find(v.options.Key)
	if v.pinned < 0 {
		v.report.problem(Resigned, -1, -1, "", "the log is signed by %s, which does not descend from the pinned key", chain.current().key)
	}
	return true
}

// begin sets up the tree left of the first record.
func (v *verifier) begin() bool {
	h := v.header
	left := cover(0, max(h.From, 0))
	if h.From < 0 || h.To < h.From || h.To > maxSize || len(left) != len(h.Left) {
		v.report.problem(Malformed, -1, -1, "", "the header's range %d to %d does not fit its %d hashes", h.From, h.To, len(h.Left))
		return false
	}
	v.tree = &fringe{}
	for i, s := range left {
		if err := v.tree.graft(s.level, h.Left[i]); err != nil {
			v.report.problem(Malformed, -1, -1, "", "the header's hashes do not fit: %v", err)
			return false
		}
	}
	v.claimed, v.next, v.good = v.tree.clone(), h.From, h.From
	v.outside()
	return true
}

// line handles any line after the first.
func (v *verifier) line(text []byte) {
	var line exportLine
	if err := json.Unmarshal(text, &line); err != nil {
		v.report.problem(Malformed, v.next, v.next, "", "line %d, where record %d belongs, cannot be read: %v", v.lines.number, v.next, err)
		v.treeless = true
		v.next++
		return
	}
	switch {
	case line.Record != nil:
		v.record(line)
	case line.Checkpoint != "":
		v.inner(line.Checkpoint)
	case line.End != nil:
		v.finished = true
		v.end(*line.End)
	default:
		v.report.problem(Malformed, -1, -1, "", "line %d is neither a record nor a checkpoint", v.lines.number)
	}
}

// grow adds a record to the tree.
func (v *verifier) grow(index int64, id string, leaf tlog.Hash, stored []tlog.Hash) {
	if len(stored) == 0 {
		v.report.problem(Malformed, index, index, id, "record %d has no hash", index)
		v.treeless = true
		return
	}
	if stored[0] != leaf {
		v.report.problem(Edited, index, index, id, "record %d (%s) does not have the hash under which it was recorded", index, id)
	}
	if v.treeless {
		return
	}
	v.tree.push(leaf)
	v.hashes(index, leaf, stored)
	v.outside()
}

// hashes compares the hashes that a record completes with those that were stored with it.
func (v *verifier) hashes(index int64, leaf tlog.Hash, stored []tlog.Hash) {
	completed := v.claimed.push(stored[0])
	if !slices.Equal(completed, stored) && !v.suspect {
		v.suspect = true
		if stored[0] != leaf {
			return // named already
		}
		first := index
		for level := 1; level < len(completed); level++ {
			if level >= len(stored) || completed[level] != stored[level] {
				first = index + 1 - 1<<level
				break
			}
		}
		v.report.problem(Edited, first, index, "", "the hash stored over records %d to %d is not theirs: one of them was changed together with its own hash, or the hash was", first, index)
	}
}

// conclude reports what only the end shows.
func (v *verifier) conclude() {
	v.settleJump()
	v.report.To = v.next
	if !v.finished {
		v.report.problem(Truncated, v.next, v.next, "", "the export breaks off before record %d, without its last line", v.next)
	}
	v.concludeIntents()
	v.concludeKeys()
	if v.treeless {
		v.report.notChecked("the root hash from record %d on: what is broken keeps the tree from being rebuilt", v.good)
	}
	for _, c := range v.forks {
		what := Edited
		if v.confirmed {
			what = Forked
		} else if v.report.brokenWithin(v.agreed, c.Size) {
			continue // named more closely
		}
		first := min(v.agreed, c.Size-1)
		v.report.problem(what, first, c.Size-1, "", "the first %d records are not those that the checkpoint from outside has signed: one of records %d to %d was changed", c.Size, first, c.Size-1)
	}
	for _, c := range v.options.Checkpoints { // the end is missing
		v.held = true
		v.report.notChecked("whether the log continues the checkpoint of %d records from outside: the file breaks off", c.Size)
	}
	if !v.held {
		v.report.notChecked("whether the end was cut off or the whole log replaced by its owner: no checkpoint from outside was given")
	}
	if !v.confirmed && v.report.OK() { // nothing may pass by accident
		v.report.problem(Malformed, -1, -1, "", "no signed checkpoint confirms the records")
	}
	if v.confirmed && v.report.OK() {
		v.report.checked("records %d to %d are, byte for byte, those under the root hash %s of %d records", v.report.From, v.report.To-1, v.report.Root, v.report.Size)
		if v.pinned >= 0 {
			v.report.checked("the checkpoint is signed by %s, which descends from the pinned key through %d key changes", v.report.Key, len(v.chain.links)-1-v.pinned)
		}
	}
}

// lineReader reads lines of bounded length.
type lineReader struct {
	in     *bufio.Reader
	number int
	long   []byte
}

// next returns the next line without its end. The slice is valid until the next call. A last line without
// a line end was cut short; it is returned as it is and will not parse.
func (l *lineReader) next() ([]byte, error) {
	l.number++
	text, err := l.in.ReadSlice('\n')
	if err == nil {
		return text[:len(text)-1], nil
	}
	l.long = append(l.long[:0], text...)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(l.long) > maxLine {
			return nil, fmt.Errorf("read line %d: longer than %d bytes", l.number, maxLine)
		}
		text, err = l.in.ReadSlice('\n')
		l.long = append(l.long, text...)
	}
	if errors.Is(err, io.EOF) && len(l.long) > 0 {
		err = nil
	}
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read line %d: %w", l.number, err)
		}
		return nil, err
	}
	return bytes.TrimSuffix(l.long, []byte("\n")), nil
}
