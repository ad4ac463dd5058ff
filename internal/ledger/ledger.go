package ledger

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"

	"golang.org/x/mod/sumdb/tlog"
)

// Options says how to open the ledger for writing. KeyFile and Place are required.
type Options struct {
	// KeyFile holds the signing key (PKCS#8, PEM, mode 0600). It is made when the ledger begins.
	KeyFile string
	// Place is the second place for checkpoints.
	Place Place
	// Interval is how often a checkpoint is written when there is something to sign; a minute when
	// zero, never by itself when negative.
	Interval time.Duration
	// Project is called for each recorded entry, in the transaction that records it. It may be called
	// again for the same entry when the database gave up a transaction.
	Project func(ctx context.Context, tx *servicedb.Tx, entry record.Entry) error
	// Authorize says whether the verified submitter may submit the entry; [Authorize] when nil.
	Authorize func(submitter string, entry record.Entry) error
	// Now is the clock of received times; time.Now when nil.
	Now func() time.Time
	// Log receives what happens in the background; slog.Default when nil.
	Log *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.KeyFile == "" || o.Place == nil {
		return o, invalid("open ledger: a key file and a second place for checkpoints are required")
	}
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	if o.Project == nil {
		o.Project = func(context.Context, *servicedb.Tx, record.Entry) error { return nil }
	}
	if o.Authorize == nil {
		o.Authorize = Authorize
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o, nil
}

// Ledger is the one writer of the log. Its methods are safe for concurrent use.
type Ledger struct {
	*Log
	options Options

	gate   sync.RWMutex // held for reading while an entry is put in the queue
	closed bool
	queue  chan *submission
	ended  chan struct{} // closed when the queue is empty and the writer has stopped
	stop   context.CancelFunc
	ticker chan struct{} // closed when the scheduled checkpoints have stopped

	edge *fringe // what the writer last committed; owned by the writer's goroutine

	signing sync.Mutex // guards what follows
	signer  *signer
	chain   *keyChain
	signed  Checkpoint // the last one in the database; Note is empty before the first
	placed  string     // the note that the second place is known to hold
}

// Open opens the ledger for writing and begins it when the database holds none. It refuses a database
// that is older than, or differs from, the last checkpoint in the database and in the second place, and
// one whose records since then do not add up.
func Open(ctx context.Context, db *servicedb.DB, options Options) (*Ledger, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Ledger{Log: Read(db), options: options,
		queue: make(chan *submission, maxBatch), ended: make(chan struct{}), ticker: make(chan struct{})}
	placed, found, err := options.Place.Last(ctx)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	head, err := l.Head(ctx)
	if activities.KindOf(err) == activities.NotFound && !found {
		err = l.begin(ctx)
	} else if activities.KindOf(err) == activities.NotFound {
		err = fmt.Errorf("%w: the database holds no record, the second place a checkpoint of %d", ErrRolledBack, placed.Size)
	} else if err == nil {
		err = l.resume(ctx, head, placed, found)
	}
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	if _, err := l.Checkpoint(ctx); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.write()
	go l.checkpoints(background)
	return l, nil
}

// begin makes the key and the first record.
func (l *Ledger) begin(ctx context.Context) error {
	private, err := loadKey(l.options.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		private, err = createKey(l.options.KeyFile)
	}
	if err != nil {
		return err
	}
	origin := originOf(private.Public().(ed25519.PublicKey))
	if l.signer, err = newSigner(origin, private); err != nil {
		return err
	}
	if l.chain, err = newChain(l.signer.key.text); err != nil {
		return err
	}
	first := &submission{submitter: systemActor, entry: record.Entry{
		Workflow: systemWorkflow, Step: stepBegin, Phase: record.Fact, Actor: systemActor, At: l.options.Now().UTC(),
		Reason: "the ledger begins",
		Facts:  map[string]string{factOrigin: origin, factKey: l.signer.key.text},
	}}
	edge := &fringe{}
	return l.db.Tx(ctx, func(tx *servicedb.Tx) error {
		if _, err := readHead(ctx, tx); activities.KindOf(err) != activities.NotFound {
			return errors.Join(errors.New("another process has begun the ledger; start again"), err)
		}
		batch := &batch{head: Head{Origin: origin}, edge: edge.clone(), received: l.options.Now().UTC()}
		if _, err := batch.add(first); err != nil {
			return err
		}
		if err := insertRows(ctx, tx, batch.rows); err != nil {
			return err
		}
		root := batch.edge.root()
		_, err := tx.Exec(ctx, `INSERT INTO ledger_head (one, origin, size, root, keys) VALUES (1, ?, ?, ?, 0)`, origin, batch.edge.size, root[:])
		if err != nil {
			return transient("begin ledger: %w", err)
		}
		l.edge = batch.edge
		return nil
	})
}

// resume checks the log against what was signed before and loads the key.
func (l *Ledger) resume(ctx context.Context, head Head, placed Checkpoint, found bool) error {
	chain, err := readChain(ctx, l.db, head)
	if err != nil {
		return err
	}
	l.chain = chain
	signed, any, err := l.LastCheckpoint(ctx)
	if err != nil {
		return err
	}
	if any {
		if err := l.agrees(ctx, head, signed); err != nil {
			return fmt.Errorf("checkpoint in the database: %w", err)
		}
		l.signed = signed
	}
	if found {
		if err := l.agrees(ctx, head, placed); err != nil {
			return fmt.Errorf("checkpoint in the second place: %w", err)
		}
		l.placed = placed.Note
		if placed.Size > l.signed.Size || l.signed.Note == "" {
			l.signed = placed
		}
	} else if any {
		l.options.Log.Warn("the second place holds no checkpoint although some were signed", "size", signed.Size)
	}
	if l.edge, err = l.checkTail(ctx, head, l.signed.Size); err != nil {
		return err
	}
	private, err := keyInForce(l.options.KeyFile, chain.current().key)
	if err != nil {
		return err
	}
	l.signer, err = newSigner(head.Origin, private)
	return err
}

// agrees checks that the log still begins with what the checkpoint says.
func (l *Ledger) agrees(ctx context.Context, head Head, c Checkpoint) error {
	if c.Origin != head.Origin {
		return fmt.Errorf("it belongs to log %q, the database holds %q", c.Origin, head.Origin)
	}
	if c.Size > head.Size {
		return fmt.Errorf("%w: %d records are there, %d were signed", ErrRolledBack, head.Size, c.Size)
	}
	if !c.signedBy(l.chain.signing(c.Size)) {
		return fmt.Errorf("%w: the checkpoint of %d is not signed by %s", ErrForked, c.Size, l.chain.signing(c.Size))
	}
	edge, err := readFringe(hashReader{ctx, l.db}, c.Size)
	if err != nil {
		return err
	}
	if edge.root() != c.Root {
		return fmt.Errorf("%w: the first %d records have the root %s, signed was %s", ErrForked, c.Size, edge.root(), c.Root)
	}
	return nil
}

// checkTail recomputes the tree from the records that no checkpoint covers yet.
func (l *Ledger) checkTail(ctx context.Context, head Head, from int64) (*fringe, error) {
	edge, err := readFringe(hashReader{ctx, l.db}, from)
	if err != nil {
		return nil, err
	}
	err = eachRow(ctx, l.db, from, head.Size, func(r row) error {
		if r.index != edge.size {
			return damaged("check records: record %d is missing", edge.size)
		}
		if string(joinHashes(edge.push(tlog.RecordHash(r.body)))) != string(r.hashes) {
			return damaged("check records: record %d does not have its hash", r.index)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if edge.size != head.Size || edge.root() != head.Root {
		return nil, damaged("check records: %d records with root %s, the head says %d with %s", edge.size, edge.root(), head.Size, head.Root)
	}
	return edge, nil
}

// Close takes no more entries, waits for those that were taken, and writes a last checkpoint.
func (l *Ledger) Close(ctx context.Context) error {
	l.gate.Lock()
	if l.closed {
		l.gate.Unlock()
		return nil
	}
	l.closed = true
	close(l.queue)
	l.gate.Unlock()
	<-l.ended
	l.stop()
	<-l.ticker
	_, err := l.Checkpoint(ctx)
	return err
}
