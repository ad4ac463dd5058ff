package servicedb

import (
	"context"
	"time"

	"castellan.dev/activities"
)

// Consumer is what one address of a consumer was last seen to use.
type Consumer struct {
	Target   string
	Consumer string
	Address  string // empty: the consumer as a whole
	Standing activities.Standing
	Serves   string // fingerprint
	Detail   string
	Since    time.Time
	SeenAt   time.Time
}

const selectConsumer = `SELECT c.target, c.consumer, c.address, c.standing, c.serves, c.detail, c.since, c.seen_at FROM consumers c WHERE ` + toldConsumer

// toldConsumer leaves out the row of a consumer as a whole when its addresses were seen since.
const toldConsumer = `(c.address <> '' OR NOT EXISTS (SELECT 1 FROM consumers o
	WHERE o.target = c.target AND o.consumer = c.consumer AND o.address <> '' AND o.seen_at >= c.seen_at))`

func scanConsumer(scan scanner) (c Consumer, err error) {
	var since, seen int64
	err = scan(&c.Target, &c.Consumer, &c.Address, &c.Standing, &c.Serves, &c.Detail, &since, &seen)
	c.Since, c.SeenAt = moment(since), moment(seen)
	return c, err
}

// Consumers lists what the consumers of a target were last seen to use.
func (db *DB) Consumers(ctx context.Context, target string) ([]Consumer, error) {
	list, err := collect(ctx, db, scanConsumer, selectConsumer+` AND c.target = ? ORDER BY c.consumer, c.address`, target)
	return list, failed("list consumers of "+quoted(target), err)
}

// Stragglers lists the consumers' addresses that are not proven to use the candidate, of every target that is
// declared, and at most limit of them.
func (db *DB) Stragglers(ctx context.Context, limit int) ([]Consumer, error) {
	list, err := collect(ctx, db, scanConsumer, selectConsumer+` AND c.standing <> 'candidate'
		AND c.target IN (SELECT name FROM targets WHERE declared) ORDER BY c.target, c.consumer, c.address LIMIT ?`, Page{Limit: limit}.limit())
	return list, failed("list stragglers", err)
}

// Lost is a certificate that was issued and whose reply never arrived.
type Lost struct {
	Target   string
	Rotation activities.RotationID
	Serial   string // decimal, or "unknown"
	At       time.Time
}

// IssuedNotReceived lists the certificates of a target (empty: of all) that were issued and never
// received, the oldest first.
func (db *DB) IssuedNotReceived(ctx context.Context, target string) ([]Lost, error) {
	var where conditions
	where.equal("target", target)
	list, err := collect(ctx, db, func(scan scanner) (l Lost, err error) {
		var at int64
		err = scan(&l.Target, &l.Rotation, &l.Serial, &at)
		l.At = moment(at)
		return l, err
	}, `SELECT target, rotation, serial, at FROM issued_not_received`+where.where()+` ORDER BY at, target, rotation, serial`, where.args...)
	return list, failed("list certificates issued and not received", err)
}
