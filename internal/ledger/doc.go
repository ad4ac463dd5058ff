// Package ledger is the evidence ledger: an append-only log of what castellan did, which an outsider
// verifies offline.
//
// Records are canonical JSON (RFC 8785) in a Merkle tree (RFC 6962) in the service database. [Open]
// gives the one writer, which lives in `castellan serve` and holds the only signing key; everybody
// else submits through [Ledger.Handler] and [NewClient]. [Read] gives the reading side, which needs no
// key. Checkpoints, signed notes in the format of c2sp.org/tlog-checkpoint, are written on a schedule
// to a second place: they make it impossible to forget, reorder or replace what was recorded
// before them, even for somebody who holds the database and the signing key.
//
// [Verify] checks an export without the ledger: with the pinned first key it knows who signed, with a
// checkpoint from elsewhere it knows that nothing was cut off or forked. What it could not check, it
// says.
//
// The ledger must not be given secrets, and it must not interpret what it records: an entry that turns
// out wrong is followed by another entry.
package ledger
