package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"

	"golang.org/x/mod/sumdb/tlog"
)

// Log is the reading side of the ledger. It needs no key.
type Log struct {
	db *servicedb.DB
}

// Read returns the reading side of the ledger in the service database.
func Read(db *servicedb.DB) *Log { return &Log{db} }

// Head is where the log ends.
type Head struct {
	Origin string
	Size   int64
	Root   tlog.Hash

	keys int64 // how often the key has changed
}

// Head returns where the log ends. A log that was never opened for writing has no head: the error has
// the kind activities.NotFound.
func (g *Log) Head(ctx context.Context) (Head, error) { return readHead(ctx, g.db) }

func readHead(ctx context.Context, q servicedb.Querier) (Head, error) {
	var head Head
	var root []byte
	err := q.QueryRow(ctx, `SELECT origin, size, root, keys FROM ledger_head WHERE one = 1`).
		Scan(&head.Origin, &head.Size, &root, &head.keys)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Head{}, activities.Errorf(activities.NotFound, "read ledger head: the ledger is empty")
	case err != nil:
		return Head{}, transient("read ledger head: %w", err)
	case len(root) != tlog.HashSize:
		return Head{}, damaged("read ledger head: the root hash has %d bytes", len(root))
	}
	head.Root = tlog.Hash(root)
	return head, nil
}

// Record returns the record with the given id.
func (g *Log) Record(ctx context.Context, id string) (Record, error) {
	body, err := readBody(ctx, g.db, id)
	if err != nil {
		return Record{}, err
	}
	r, err := decodeRecord(body)
	if err != nil {
		return Record{}, damaged("read record %s: %w", id, err)
	}
	return r, nil
}

func readBody(ctx context.Context, q servicedb.Querier, id string) ([]byte, error) {
	var body []byte
	err := q.QueryRow(ctx, `SELECT body FROM ledger_records WHERE id = ?`, id).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, activities.Errorf(activities.NotFound, "read record: no record has the id %q", id)
	}
	if err != nil {
		return nil, transient("read record: %w", err)
	}
	return body, nil
}

// Query selects records.
type Query struct {
	Target   string // empty: every target
	Rotation string // empty: every rotation
	Before   int64  // only records before this index; zero: from the end
	Limit    int    // at most so many; zero: 100
}

// Records returns records, the latest first.
func (g *Log) Records(ctx context.Context, query Query) ([]Record, error) {
	limit := query.Limit
	if limit <= 0 {
		limit = 100
	}
	if at := strings.LastIndexByte(query.Rotation, '@'); query.Target == "" && at > 0 {
		query.Target = query.Rotation[:at] // there is an index by target
	}
	text := `SELECT body FROM ledger_records`
	var where []string
	var args []any
	if query.Target != "" {
		where, args = append(where, `target = ?`), append(args, query.Target)
	}
	if query.Before > 0 {
		where, args = append(where, `idx < ?`), append(args, query.Before)
	}
	if len(where) > 0 {
		text += ` WHERE ` + strings.Join(where, ` AND `)
	}
	text += ` ORDER BY idx DESC`
	if query.Rotation == "" {
		text, args = text+` LIMIT ?`, append(args, limit)
	}
	rows, err := g.db.Query(ctx, text, args...)
	if err != nil {
		return nil, transient("read records: %w", err)
	}
	defer rows.Close()
	var list []Record
	for len(list) < limit && rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return nil, transient("read records: %w", err)
		}
		r, err := decodeRecord(body)
		if err != nil {
			return nil, damaged("read records: %w", err)
		}
		if query.Rotation == "" || string(r.Entry.Rotation) == query.Rotation {
			list = append(list, r)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, transient("read records: %w", err)
	}
	return list, nil
}

// LastCheckpoint returns the largest checkpoint in the database, or false when there is none.
func (g *Log) LastCheckpoint(ctx context.Context) (Checkpoint, bool, error) {
	return lastCheckpoint(ctx, g.db)
}

func lastCheckpoint(ctx context.Context, q servicedb.Querier) (Checkpoint, bool, error) {
	var text string
	err := q.QueryRow(ctx, `SELECT note FROM ledger_checkpoints ORDER BY size DESC LIMIT 1`).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return Checkpoint{}, false, nil
	}
	if err != nil {
		return Checkpoint{}, false, transient("read last checkpoint: %w", err)
	}
	checkpoint, err := ParseCheckpoint(text)
	if err != nil {
		return Checkpoint{}, false, damaged("read last checkpoint: %w", err)
	}
	return checkpoint, true, nil
}

// Keys returns the first key of the log and the one that signs it now.
func (g *Log) Keys(ctx context.Context) (first, current Key, err error) {
	head, err := g.Head(ctx)
	if err != nil {
		return Key{}, Key{}, err
	}
	chain, err := readChain(ctx, g.db, head)
	if err != nil {
		return Key{}, Key{}, err
	}
	return chain.links[0].key, chain.current().key, nil
}

// readChain reads the keys from the records that introduce them.
func readChain(ctx context.Context, q servicedb.Querier, head Head) (*keyChain, error) {
	fact := func(step string, epoch int64, name string) (string, error) {
		id := ID(record.Entry{Workflow: systemWorkflow, Step: step, Epoch: activities.Epoch(epoch), Phase: record.Fact})
		body, err := readBody(ctx, q, id)
		if err != nil {
			return "", err
		}
		r, err := decodeRecord(body)
		return r.Entry.Facts[name], err
	}
	first, err := fact(stepBegin, 0, factKey)
	if err != nil {
		return nil, err
	}
	chain, err := newChain(first)
	if err != nil {
		return nil, damaged("read key chain: %w", err)
	}
	if chain.origin != head.Origin {
		return nil, damaged("read key chain: the first key belongs to log %q, not to %q", chain.origin, head.Origin)
	}
	for epoch := int64(1); epoch <= head.keys; epoch++ {
		signed, err := fact(stepKeyChange, epoch, factNote)
		if err != nil {
			return nil, err
		}
		if _, err := chain.extend(signed); err != nil {
			return nil, damaged("read key chain: %w", err)
		}
	}
	return chain, nil
}

// hashReader reads the tree's hashes from the records that completed them.
type hashReader struct {
	ctx context.Context
	q   servicedb.Querier
}

// ReadHashes implements tlog.HashReader.
func (r hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	type at struct{ row, offset int64 }
	places := make([]at, len(indexes))
	var rows []any
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		places[i] = at{(n+1)<<level - 1, int64(level) * tlog.HashSize}
		rows = append(rows, places[i].row)
	}
	stored, err := r.rows(rows)
	if err != nil {
		return nil, err
	}
	hashes := make([]tlog.Hash, len(indexes))
	for i, place := range places {
		text := stored[place.row]
		if int64(len(text)) < place.offset+tlog.HashSize {
			return nil, damaged("read tree: record %d or one of its hashes is missing", place.row)
		}
		copy(hashes[i][:], text[place.offset:])
	}
	return hashes, nil
}

// rows reads the hashes column of the given records.
func (r hashReader) rows(indexes []any) (map[int64][]byte, error) {
	stored := make(map[int64][]byte, len(indexes))
	for chunk := range slices.Chunk(indexes, 500) {
		rows, err := r.q.Query(r.ctx, `SELECT idx, hashes FROM ledger_records WHERE idx IN (`+marks(len(chunk))+`)`, chunk...)
		if err != nil {
			return nil, transient("read tree: %w", err)
		}
		for rows.Next() {
			var index int64
			var hashes []byte
			if err := rows.Scan(&index, &hashes); err != nil {
				rows.Close()
				return nil, transient("read tree: %w", err)
			}
			stored[index] = hashes
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, transient("read tree: %w", err)
		}
	}
	return stored, nil
}

// row is one row of the table of records.
type row struct {
	index  int64
	id     string
	target string
	body   []byte
	hashes []byte
}

// eachRow calls fn for the records from to to-1 in order. It reads in pages, so that a long export holds
// no transaction open: records never change.
func eachRow(ctx context.Context, q servicedb.Querier, from, to int64, fn func(row) error) error {
	const page = 500
	for start := from; start < to; start += page {
		list, err := readRows(ctx, q, start, min(start+page, to))
		if err != nil {
			return err
		}
		for _, r := range list {
			if err := fn(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func readRows(ctx context.Context, q servicedb.Querier, from, to int64) ([]row, error) {
	rows, err := q.Query(ctx, `SELECT idx, id, target, body, hashes FROM ledger_records WHERE idx >= ? AND idx < ? ORDER BY idx`, from, to)
	if err != nil {
		return nil, transient("read records: %w", err)
	}
	defer rows.Close()
	var list []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.index, &r.id, &r.target, &r.body, &r.hashes); err != nil {
			return nil, transient("read records: %w", err)
		}
		list = append(list, r)
	}
	if err := rows.Err(); err != nil {
		return nil, transient("read records: %w", err)
	}
	return list, nil
}

// joinHashes and splitHashes turn hashes into a column and back.
func joinHashes(hashes []tlog.Hash) []byte {
	text := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, hash := range hashes {
		text = append(text, hash[:]...)
	}
	return text
}

func splitHashes(text []byte) []tlog.Hash {
	var hashes []tlog.Hash
	for chunk := range slices.Chunk(text, tlog.HashSize) {
		var hash tlog.Hash
		copy(hash[:], chunk)
		hashes = append(hashes, hash)
	}
	return hashes
}

// marks returns n placeholders.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

func transient(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	var own *activities.Error
	if errors.As(err, &own) {
		return err
	}
	return activities.Errorf(activities.Transient, "%w", err)
}
