package fault

import "encoding/binary"

const (
	recordHeader      = 5  // type, version, length: RFC 8446 section 5.1
	recordHandshake   = 22 // what a TLS client sends first
	recordApplication = 23 // in TLS 1.3 also the client's last handshake messages
)

// records follows the caller's bytes just far enough to tell a TLS handshake from what comes after it.
// In TLS 1.3 it is one message early: the client's Finished looks like application data. That is of
// no consequence, for the server has then said everything that the handshake needs.
type records struct {
	started bool
	found   bool
	header  []byte
	body    int // bytes of the current record that are still to come
}

// application takes the next bytes of the stream and reports whether application data has been seen.
// A stream that is not TLS is application data from its first byte.
func (r *records) application(chunk []byte) bool {
	if !r.started && len(chunk) > 0 {
		r.started = true
		r.found = chunk[0] != recordHandshake
	}
	for len(chunk) > 0 && !r.found {
		if r.body > 0 {
			skip := min(r.body, len(chunk))
			r.body -= skip
			chunk = chunk[skip:]
			continue
		}
		take := min(recordHeader-len(r.header), len(chunk))
		r.header = append(r.header, chunk[:take]...)
		chunk = chunk[take:]
		if len(r.header) == recordHeader {
			r.found = r.header[0] == recordApplication
			r.body = int(binary.BigEndian.Uint16(r.header[3:]))
			r.header = r.header[:0]
		}
	}
	return r.found
}
