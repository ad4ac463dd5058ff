package servicedb

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"castellan.dev/activities"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// failed gives err an act and a kind. It passes nil, and keeps the kind of what is classified already.
func failed(act string, err error) error {
	if err == nil {
		return nil
	}
	var own *activities.Error
	if errors.As(err, &own) {
		return &activities.Error{Kind: own.Kind, Detail: act + ": " + err.Error(), RetryAfter: own.RetryAfter, Cause: err}
	}
	if errors.Is(err, sql.ErrNoRows) {
		return &activities.Error{Kind: activities.NotFound, Detail: act + ": it is not known", Cause: err}
	}
	return activities.Errorf(kindOf(err), "%s: %w", act, err)
}

func kindOf(err error) activities.Kind {
	if errors.Is(err, sql.ErrNoRows) {
		return activities.NotFound
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch {
		case pg.Code == "42501", strings.HasPrefix(pg.Code, "28"): // insufficient_privilege, invalid_authorization
			return activities.Denied
		case strings.HasPrefix(pg.Code, "23"), strings.HasPrefix(pg.Code, "22"): // integrity, data
			return activities.Invalid
		}
		return activities.Transient
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOTADB:
			return activities.Invalid
		case sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN:
			return activities.Denied
		}
	}
	return activities.Transient
}

// repeatable reports whether the transaction that err ended left nothing behind and may succeed when it
// is run again at once.
func repeatable(err error) bool {
	if activities.KindOf(err) == activities.Uncertain {
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "40001", "40P01", "55P03": // serialization_failure, deadlock_detected, lock_not_available
			return true
		case "57P01", "57P02", "57P03": // shut down, crashed, starting up
			return true
		}
		return false
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code()&0xff == sqlite3.SQLITE_BUSY
	}
	var network net.Error
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err) ||
		(errors.As(err, &network) && !network.Timeout())
}

// undone reports whether a commit that ended with err certainly left nothing behind. That the context ended
// is no answer: the commit may have been on its way.
func undone(err error) bool {
	if errors.Is(err, sql.ErrTxDone) {
		return true // rolled back before the commit
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Severity == "ERROR" // a server that goes down (FATAL, PANIC) may have committed before
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code()&0xff != sqlite3.SQLITE_IOERR // the log may hold the commit although its sync failed
	}
	return false
}

// invalid makes an error that a retry cannot cure.
func invalid(format string, args ...any) error {
	return activities.Errorf(activities.Invalid, "%w", fmt.Errorf(format, args...))
}
