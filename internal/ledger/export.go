package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"castellan.dev/activities"

	"golang.org/x/mod/sumdb/tlog"
)

// formatExport names the format of an export; formatProof that of a proof.
const (
	formatExport = "castellan.dev/ledger/export/1"
	formatProof  = "castellan.dev/ledger/proof/1"
)

// An export is a sequence of JSON lines: a header, then records and the checkpoints between them, then
// an end. A record's line holds its exact bytes.

// exportHeader is the first line.
type exportHeader struct {
	Format  string      `json:"format"`
	Origin  string      `json:"origin"`
	From    int64       `json:"from,string"`
	To      int64       `json:"to,string"`
	Key     string      `json:"key"`               // the first key
	Changes []string    `json:"changes,omitempty"` // hand-overs to later keys
	Left    []tlog.Hash `json:"left,omitempty"`    // subtrees before the first record of a range
}

// exportLine is any later line: exactly one of a record, a checkpoint and an end.
type exportLine struct {
	Hashes     []tlog.Hash     `json:"hashes,omitempty"` // what the record completes: leaf first
	Record     json.RawMessage `json:"record,omitempty"`
	Checkpoint string          `json:"checkpoint,omitempty"`
	End        *exportEnd      `json:"end,omitempty"`
}

// exportEnd is the last line.
type exportEnd struct {
	Checkpoint string      `json:"checkpoint"`      // over the whole log
	Right      []tlog.Hash `json:"right,omitempty"` // subtrees after the last record of a range
}

// Range selects records by index. The zero value selects all.
type Range struct {
	From int64 // first record
	To   int64 // the record after the last; zero: the end of what is signed
}

// Export writes the records up to the last checkpoint in the database. Records that are not signed yet are
// not exported; [Ledger.Export] signs first.
func (g *Log) Export(ctx context.Context, w io.Writer, part Range) error {
	signed, found, err := g.LastCheckpoint(ctx)
	if err != nil {
		return err
	}
	if !found {
		return activities.Errorf(activities.NotFound, "export evidence: nothing is signed yet")
	}
	if part.To == 0 {
		part.To = signed.Size
	}
	if part.From < 0 || part.From > part.To || part.To > signed.Size {
		return invalid("export evidence: records %d to %d are not within the %d signed ones", part.From, part.To, signed.Size)
	}
	out := bufio.NewWriterSize(w, 1<<16)
	if err := g.exportHeader(ctx, out, part); err != nil {
		return err
	}
	if err := g.exportRecords(ctx, out, part); err != nil {
		return err
	}
	right, err := readSubtrees(hashReader{ctx, g.db}, cover(part.To, signed.Size))
	if err != nil {
		return err
	}
	if err := writeLine(out, exportLine{End: &exportEnd{signed.Note, right}}); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("export evidence: %w", err)
	}
	return nil
}

func (g *Log) exportHeader(ctx context.Context, out *bufio.Writer, part Range) error {
	head, err := g.Head(ctx)
	if err != nil {
		return err
	}
	chain, err := readChain(ctx, g.db, head)
	if err != nil {
		return err
	}
	left, err := readSubtrees(hashReader{ctx, g.db}, cover(0, part.From))
	if err != nil {
		return err
	}
	first, changes := chain.texts()
	return writeLine(out, exportHeader{formatExport, head.Origin, part.From, part.To, first, changes, left})
}

// ChainKey is one of the keys that sign a log, each introduced by the one before it.
type ChainKey struct {
	Key   string `json:"key"`
	Since int64  `json:"since,string"` // index of the record that introduced it
}

// ExportedKeys reads the keys from the beginning of an export, the first of which auditors pin. Their
// hand-overs are checked; whether the first one is the ledger's own, only the auditor knows.
func ExportedKeys(r io.Reader) ([]ChainKey, error) {
	var header exportHeader
	if err := json.NewDecoder(r).Decode(&header); err != nil {
		return nil, fmt.Errorf("read keys of export: %w", err)
	}
	chain, err := newChain(header.Key)
	if err != nil {
		return nil, fmt.Errorf("read keys of export: %w", err)
	}
	for _, change := range header.Changes {
		if _, err := chain.extend(change); err != nil {
			return nil, fmt.Errorf("read keys of export: %w", err)
		}
	}
	var keys []ChainKey
	for _, link := range chain.links {
		keys = append(keys, ChainKey{link.key.text, link.since})
	}
	return keys, nil
}

// exportRecords writes the records and, after the last record that it covers, each checkpoint.
func (g *Log) exportRecords(ctx context.Context, out *bufio.Writer, part Range) error {
	notes, err := g.checkpointsWithin(ctx, part)
	if err != nil {
		return err
	}
	return eachRow(ctx, g.db, part.From, part.To, func(r row) error {
		hashes, err := json.Marshal(splitHashes(r.hashes))
		if err != nil {
			return fmt.Errorf("export evidence: %w", err)
		}
		for _, text := range [][]byte{[]byte(`{"hashes":`), hashes, []byte(`,"record":`), r.body, []byte("}\n")} {
			if _, err := out.Write(text); err != nil {
				return fmt.Errorf("export evidence: %w", err)
			}
		}
		if text, found := notes[r.index+1]; found {
			return writeLine(out, exportLine{Checkpoint: text})
		}
		return nil
	})
}

func (g *Log) checkpointsWithin(ctx context.Context, part Range) (map[int64]string, error) {
	rows, err := g.db.Query(ctx, `SELECT size, note FROM ledger_checkpoints WHERE size > ? AND size <= ?`, part.From, part.To)
	if err != nil {
		return nil, transient("read checkpoints: %w", err)
	}
	defer rows.Close()
	notes := map[int64]string{}
	for rows.Next() {
		var size int64
		var text string
		if err := rows.Scan(&size, &text); err != nil {
			return nil, transient("read checkpoints: %w", err)
		}
		notes[size] = text
	}
	if err := rows.Err(); err != nil {
		return nil, transient("read checkpoints: %w", err)
	}
	return notes, nil
}

func writeLine(out *bufio.Writer, value any) error {
	text, err := json.Marshal(value)
	if err == nil {
		_, err = out.Write(append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("export evidence: %w", err)
	}
	return nil
}

// Export signs a checkpoint and exports everything up to it.
func (l *Ledger) Export(ctx context.Context, w io.Writer, part Range) error {
	if _, err := l.Checkpoint(ctx); err != nil {
		return err
	}
	return l.Log.Export(ctx, w, part)
}
