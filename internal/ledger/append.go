package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"

	"golang.org/x/mod/sumdb/tlog"
)

// maxBatch is how many entries one transaction takes.
const maxBatch = 256

// writeTimeout bounds one transaction of the writer.
const writeTimeout = 30 * time.Second

// Receipt says where an entry is.
type Receipt struct {
	ID       string `json:"id"`
	Index    int64  `json:"index,string"`
	Repeated bool   `json:"repeated,omitempty"` // the entry was there already
	Differs  bool   `json:"differs,omitempty"`  // the one that is there claims something else; this one was kept out
}

// submission is an entry on its way into the log.
type submission struct {
	submitter string
	entry     record.Entry
	done      chan<- outcome
}

// outcome is what the writer answers.
type outcome struct {
	receipt Receipt
	err     error
}

// Append records the entry in the name of the submitter, whose identity the caller has verified. When it
// returns nil the record is durable. Entries that arrive together share a transaction.
func (l *Ledger) Append(ctx context.Context, submitter string, entry record.Entry) (Receipt, error) {
	if err := l.admit(submitter, entry); err != nil {
		return Receipt{}, err
	}
	done := make(chan outcome, 1)
	if err := l.enqueue(ctx, &submission{submitter: submitter, entry: normal(submitter, entry), done: done}); err != nil {
		return Receipt{}, err
	}
	select {
	case out := <-done:
		return out.receipt, out.err
	case <-ctx.Done():
		return Receipt{}, transient("append evidence: %w", ctx.Err())
	}
}

// admit refuses what must not be recorded.
func (l *Ledger) admit(submitter string, entry record.Entry) error {
	if err := check(entry); err != nil {
		return err
	}
	if err := checkText("submitter", submitter, maxName); err != nil {
		return err
	}
	if submitter == "" || submitter == systemActor || entry.Actor == systemActor || entry.Workflow == systemWorkflow {
		return activities.Errorf(activities.Denied, "submit evidence: %q may not write for the ledger itself", submitter)
	}
	return l.options.Authorize(submitter, entry)
}

func (l *Ledger) enqueue(ctx context.Context, s *submission) error {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.closed {
		return transient("append evidence: %w", ErrClosed)
	}
	select {
	case l.queue <- s:
		return nil
	case <-ctx.Done():
		return transient("append evidence: %w", ctx.Err())
	}
}

// As returns a recorder that submits under a fixed identity, for zones in the ledger's own process.
func (l *Ledger) As(submitter string) record.Recorder { return local{l, submitter} }

type local struct {
	ledger    *Ledger
	submitter string
}

// Append implements record.Recorder.
func (r local) Append(ctx context.Context, entry record.Entry) (string, error) {
	receipt, err := r.ledger.Append(ctx, r.submitter, entry)
	return receipt.ID, err
}

// write is the writer: it takes what is queued, commits it together, and answers. While one
// transaction is being made durable the next batch gathers by itself.
func (l *Ledger) write() {
	defer close(l.ended)
	for first := range l.queue {
		list := []*submission{first}
	gather:
		for len(list) < maxBatch {
			select {
			case next, open := <-l.queue:
				if !open {
					break gather
				}
				list = append(list, next)
			default:
				break gather
			}
		}
		l.commit(list)
	}
}

// commit records the entries and answers all of them. An entry that cannot be recorded or projected is left
// out, so that it does not stand in the way of others.
func (l *Ledger) commit(list []*submission) {
	for len(list) > 0 {
		receipts, err := l.attempt(list)
		var guilty *entryError
		if errors.As(err, &guilty) && !errors.Is(err, context.DeadlineExceeded) {
			list[guilty.at].done <- outcome{err: guilty.cause}
			list = slices.Delete(list, guilty.at, guilty.at+1)
			continue
		}
		for i, s := range list {
			if err != nil {
				s.done <- outcome{err: transient("append evidence: %w", err)}
				continue
			}
			s.done <- outcome{receipt: receipts[i]}
		}
		return
	}
}

// attempt runs one transaction. After a lost reply it looks again: what was committed is then found.
func (l *Ledger) attempt(list []*submission) ([]Receipt, error) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	receipts, err := l.transact(ctx, list)
	if err != nil && activities.KindOf(err) == activities.Uncertain {
		l.edge = nil
		receipts, err = l.transact(ctx, list)
	}
	return receipts, err
}

func (l *Ledger) transact(ctx context.Context, list []*submission) ([]Receipt, error) {
	var receipts []Receipt
	var edge *fringe
	err := l.db.Tx(ctx, func(tx *servicedb.Tx) error {
		batch, err := l.load(ctx, tx, list)
		if err != nil {
			return err
		}
		receipts = receipts[:0]
		for i, s := range list {
			receipt, err := batch.add(s)
			if err != nil {
				return &entryError{i, err}
			}
			receipts = append(receipts, receipt)
			if receipt.Repeated {
				continue
			}
			if err := l.options.Project(ctx, tx, s.entry); err != nil {
				return &entryError{i, err}
			}
		}
		edge = batch.edge
		return batch.store(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	l.edge = edge
	return receipts, nil
}

// entryError names the entry that cannot be recorded or projected.
type entryError struct {
	at    int
	cause error
}

func (e *entryError) Error() string { return "record entry: " + e.cause.Error() }

func (e *entryError) Unwrap() error { return e.cause }

// batch is the work of one transaction.
type batch struct {
	head     Head
	edge     *fringe
	received time.Time
	first    map[string]Record // what is there already, by id
	rows     []row
}

// load reads the head under the write lock and looks up which entries are there already.
func (l *Ledger) load(ctx context.Context, tx *servicedb.Tx, list []*submission) (*batch, error) {
	head, err := readHead(ctx, tx)
	if err != nil {
		return nil, err
	}
	edge, err := l.edgeAt(ctx, tx, head)
	if err != nil {
		return nil, err
	}
	first, err := existing(ctx, tx, list)
	return &batch{head: head, edge: edge, received: l.options.Now().UTC(), first: first}, err
}

// edgeAt returns the edge of the tree at the head, to be changed freely. It refuses a head behind what
// this process has committed: somebody restored the database under us.
func (l *Ledger) edgeAt(ctx context.Context, tx *servicedb.Tx, head Head) (*fringe, error) {
	if l.edge != nil && head.Size < l.edge.size {
		return nil, fmt.Errorf("%w: %d records are there, %d were committed", ErrRolledBack, head.Size, l.edge.size)
	}
	if l.edge != nil && head.Size == l.edge.size {
		if head.Root != l.edge.root() {
			return nil, fmt.Errorf("%w: at %d records", ErrForked, head.Size)
		}
		return l.edge.clone(), nil
	}
	edge, err := readFringe(hashReader{ctx, tx}, head.Size)
	if err != nil {
		return nil, err
	}
	if edge.root() != head.Root {
		return nil, damaged("append: the hashes of %d records do not add up to the head", head.Size)
	}
	return edge, nil
}

// existing returns the records that are there already, by id.
func existing(ctx context.Context, tx *servicedb.Tx, list []*submission) (map[string]Record, error) {
	ids := make([]any, len(list))
	for i, s := range list {
		ids[i] = ID(s.entry)
	}
	first := map[string]Record{}
	rows, err := tx.Query(ctx, `SELECT body FROM ledger_records WHERE id IN (`+marks(len(ids))+`)`, ids...)
	if err != nil {
		return nil, transient("look for records: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return nil, transient("look for records: %w", err)
		}
		r, err := decodeRecord(body)
		if err != nil {
			return nil, damaged("look for records: %w", err)
		}
		first[r.ID] = r
	}
	if err := rows.Err(); err != nil {
		return nil, transient("look for records: %w", err)
	}
	return first, nil
}

// add makes the entry's row, or finds the record that is there already.
func (b *batch) add(s *submission) (Receipt, error) {
	id := ID(s.entry)
	if first, found := b.first[id]; found {
		return Receipt{id, first.Index, true, differs(first.Entry, s.entry)}, nil
	}
	r := Record{version, id, b.edge.size, b.received, s.submitter, s.entry}
	body, err := encode(r)
	if err != nil {
		return Receipt{}, err
	}
	if b.first == nil {
		b.first = map[string]Record{}
	}
	b.first[id] = r
	hashes := b.edge.push(tlog.RecordHash(body))
	b.rows = append(b.rows, row{r.Index, id, s.entry.Target, body, joinHashes(hashes)})
	return Receipt{ID: id, Index: r.Index}, nil
}

// store writes the rows and moves the head.
func (b *batch) store(ctx context.Context, tx *servicedb.Tx) error {
	if len(b.rows) == 0 {
		return nil
	}
	if err := insertRows(ctx, tx, b.rows); err != nil {
		return err
	}
	root := b.edge.root()
	changed, err := tx.Exec(ctx, `UPDATE ledger_head SET size = ?, root = ?, keys = ? WHERE one = 1 AND size = ?`,
		b.edge.size, root[:], b.head.keys, b.head.Size)
	if err != nil {
		return transient("move ledger head: %w", err)
	}
	if changed != 1 {
		return damaged("move ledger head: somebody else moved it")
	}
	return nil
}

func insertRows(ctx context.Context, tx *servicedb.Tx, rows []row) error {
	for chunk := range slices.Chunk(rows, 64) {
		text := `INSERT INTO ledger_records (idx, id, target, body, hashes) VALUES `
		var args []any
		for i, r := range chunk {
			if i > 0 {
				text += `, `
			}
			text += `(?, ?, ?, ?, ?)`
			args = append(args, r.index, r.id, r.target, r.body, r.hashes)
		}
		if _, err := tx.Exec(ctx, text, args...); err != nil {
			return transient("insert records: %w", err)
		}
	}
	return nil
}
