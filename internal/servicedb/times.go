package servicedb

import "time"

// Times are stored as microseconds since 1970: one integer that both dialects compare and index alike, and
// wide enough for a certificate "without expiry" (9999-12-31), for which nanoseconds are not.

// micros returns t as it is stored; zero for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// orNull stores zero as NULL.
func orNull(micros int64) *int64 {
	if micros == 0 {
		return nil
	}
	return &micros
}

// moment returns the time that was stored; the zero time for zero.
func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
