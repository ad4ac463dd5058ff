package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"
)

// checkpoints signs on a schedule until the context ends.
func (l *Ledger) checkpoints(ctx context.Context) {
	defer close(l.ticker)
	if l.options.Interval < 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(l.options.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := l.Checkpoint(ctx); err != nil && ctx.Err() == nil {
				l.options.Log.Error("write checkpoint", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Checkpoint signs the log as it stands and writes the checkpoint to the database and to the second place.
// It does not sign when there is nothing to add, nor on a log that does not continue what was signed
// before.
func (l *Ledger) Checkpoint(ctx context.Context) (Checkpoint, error) {
	l.signing.Lock()
	defer l.signing.Unlock()
	return l.checkpoint(ctx)
}

func (l *Ledger) checkpoint(ctx context.Context) (Checkpoint, error) {
	head, err := l.continued(ctx)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	if head.Size > l.signed.Size || l.signed.Note == "" {
		signed, err := signCheckpoint(l.signer, head.Size, head.Root)
		if err != nil {
			return Checkpoint{}, err
		}
		err = l.db.Tx(ctx, func(tx *servicedb.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO ledger_checkpoints (size, note) VALUES (?, ?) ON CONFLICT (size) DO NOTHING`, signed.Size, signed.Note)
			return err
		})
		if err != nil {
			return Checkpoint{}, transient("write checkpoint: %w", err)
		}
		l.signed = signed
	}
	if l.placed != l.signed.Note {
		if err := l.options.Place.Put(ctx, l.signed); err != nil {
			return Checkpoint{}, fmt.Errorf("write checkpoint to the second place: %w", err)
		}
		l.placed = l.signed.Note
	}
	return l.signed, nil
}

// continued returns the head after checking that the log still begins with what was signed last, that its
// hashes add up to the head, and that our key is the one in force.
func (l *Ledger) continued(ctx context.Context) (Head, error) {
	var head Head
	err := l.db.View(ctx, func(q servicedb.Querier) error {
		var err error
		if head, err = readHead(ctx, q); err != nil {
			return err
		}
		if head.Size < l.signed.Size {
			return fmt.Errorf("%w: %d records are there, %d were signed", ErrRolledBack, head.Size, l.signed.Size)
		}
		if head.keys != l.chain.generation() {
			return errors.New("another process has changed the signing key; start again")
		}
		edge, err := readFringe(hashReader{ctx, q}, l.signed.Size)
		if err != nil {
			return err
		}
		if l.signed.Note != "" && edge.root() != l.signed.Root {
			return fmt.Errorf("%w: at %d records", ErrForked, l.signed.Size)
		}
		edge, err = readFringe(hashReader{ctx, q}, head.Size)
		if err == nil && edge.root() != head.Root {
			err = damaged("the hashes of %d records do not add up to the head", head.Size)
		}
		return err
	})
	return head, err
}

// PublicKey returns the key that signs now: what an auditor pins.
func (l *Ledger) PublicKey() Key {
	l.signing.Lock()
	defer l.signing.Unlock()
	return l.signer.key
}

// ChangeKey replaces the signing key by a fresh one. The key before signs the change, which is a record of
// the log, and is then erased; a crash in between leaves whichever key the log says is in force.
func (l *Ledger) ChangeKey(ctx context.Context, actor, reason string) (Key, error) {
	l.signing.Lock()
	defer l.signing.Unlock()
	if _, err := l.checkpoint(ctx); err != nil { // the last word of the key before
		return Key{}, fmt.Errorf("change signing key: %w", err)
	}
	path := l.options.KeyFile + nextSuffix
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Key{}, fmt.Errorf("change signing key: %w", err)
	}
	private, err := createKey(path)
	if err != nil {
		return Key{}, fmt.Errorf("change signing key: %w", err)
	}
	next, err := newSigner(l.chain.origin, private)
	if err != nil {
		return Key{}, err
	}
	signed, err := l.recordChange(ctx, next, actor, reason)
	if err != nil {
		return Key{}, fmt.Errorf("change signing key: %w", err)
	}
	if _, err := l.chain.extend(signed); err != nil {
		return Key{}, fmt.Errorf("change signing key: %w", err)
	}
	l.signer = next
	if err := promoteKey(l.options.KeyFile); err != nil {
		return Key{}, err
	}
	_, err = l.checkpoint(ctx)
	return next.key, err
}

// recordChange appends the record that introduces the next key. It bypasses the writer: the write lock of
// the database orders it among other records, and the writer notices that the head has moved.
func (l *Ledger) recordChange(ctx context.Context, next *signer, actor, reason string) (string, error) {
	var signed string
	err := l.db.Tx(ctx, func(tx *servicedb.Tx) error {
		head, err := readHead(ctx, tx)
		if err != nil {
			return err
		}
		if head.keys != l.chain.generation() {
			return errors.New("another process has changed the signing key; start again")
		}
		edge, err := readFringe(hashReader{ctx, tx}, head.Size)
		if err != nil {
			return err
		}
		if edge.root() != head.Root {
			return damaged("the hashes of %d records do not add up to the head", head.Size)
		}
		if signed, err = l.chain.handOver(l.signer, next, head.Size); err != nil {
			return err
		}
		b := &batch{head: head, edge: edge, received: l.options.Now().UTC()}
		b.head.keys++
		_, err = b.add(&submission{submitter: systemActor, entry: record.Entry{
			Workflow: systemWorkflow, Step: stepKeyChange, Epoch: activities.Epoch(b.head.keys), Phase: record.Fact,
			Actor: actor, Reason: reason, At: b.received,
			Facts: map[string]string{factPrevious: l.signer.key.text, factKey: next.key.text, factNote: signed},
		}})
		if err != nil {
			return err
		}
		return b.store(ctx, tx)
	})
	return signed, err
}
