package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"castellan.dev/activities"

	"golang.org/x/mod/sumdb/tlog"
)

// proofFile proves one record without the rest of the log.
type proofFile struct {
	Format     string          `json:"format"`
	Origin     string          `json:"origin"`
	Key        string          `json:"key"`
	Changes    []string        `json:"changes,omitempty"`
	Path       []tlog.Hash     `json:"path"` // from the leaf to the root
	Checkpoint string          `json:"checkpoint"`
	Record     json.RawMessage `json:"record"` // exact bytes
}

// Prove writes a file that proves the record with the given id: the record, its path to the root, and the
// last checkpoint.
func (g *Log) Prove(ctx context.Context, w io.Writer, id string) error {
	body, err := readBody(ctx, g.db, id)
	if err != nil {
		return err
	}
	r, err := decodeRecord(body)
	if err != nil {
		return damaged("prove record %s: %w", id, err)
	}
	signed, found, err := g.LastCheckpoint(ctx)
	if err != nil {
		return err
	}
	if !found || signed.Size <= r.Index {
		return activities.Errorf(activities.NotFound, "prove record %s: no checkpoint covers it yet", id)
	}
	head, err := g.Head(ctx)
	if err != nil {
		return err
	}
	chain, err := readChain(ctx, g.db, head)
	if err != nil {
		return err
	}
	path, err := tlog.ProveRecord(signed.Size, r.Index, hashReader{ctx, g.db})
	if err != nil {
		return fmt.Errorf("prove record %s: %w", id, err)
	}
	first, changes := chain.texts()
	return writeProof(w, proofFile{formatProof, head.Origin, first, changes, path, signed.Note, body})
}

// writeProof writes the record's bytes as they are: the encoder would escape some of them.
func writeProof(w io.Writer, proof proofFile) error {
	body := proof.Record
	proof.Record = json.RawMessage(`null`)
	text, err := json.Marshal(proof)
	if err != nil {
		return fmt.Errorf("write proof: %w", err)
	}
	text = append(bytes.TrimSuffix(text, []byte(`null}`)), body...)
	if _, err := w.Write(append(text, '}', '\n')); err != nil {
		return fmt.Errorf("write proof: %w", err)
	}
	return nil
}

// Prove signs a checkpoint when none covers the record yet, and writes the proof.
func (l *Ledger) Prove(ctx context.Context, w io.Writer, id string) error {
	if _, err := l.Checkpoint(ctx); err != nil {
		return err
	}
	return l.Log.Prove(ctx, w, id)
}
