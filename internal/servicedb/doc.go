// Package servicedb is the service's own database: inventory, rotation records, the evidence ledger's
// records and the schedules' last successes. It is an SQLite file or a PostgreSQL database; both
// pass the conformance suite in testsuite/conformance.
//
// Inventory and rotation records are a projection of the ledger: [Project] turns one entry into rows,
// in the transaction that appends the entry, and may be repeated or run out of order. What is not
// evidence (declared targets, holds, last successes) is written by the methods of [DB].
//
// Writers are serial in both dialects: [DB.Tx] takes the database's one write lock first, so a
// transaction never has to be repeated because of what another one did. Readers are not blocked.
//
// The database never holds a secret: there is no column for one, and everything that arrives is
// public material, a name, a time or a sentence.
package servicedb
