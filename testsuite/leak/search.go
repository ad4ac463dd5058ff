package leak

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// maxDepth bounds streams within streams.
	maxDepth = 4
	// maxStream bounds what one stream may expand to. The rest of a larger one is not searched, which
	// no test of castellan comes near.
	maxStream = 256 << 20
)

// needle is one form of one canary.
type needle struct {
	canary, form string
	text         []byte
}

// index finds many needles in one pass: a bit per hash of four bytes rejects almost every position.
type index struct {
	filter  [1 << 16 / 64]uint64
	byStart map[uint32][]needle
}

func newIndex(canaries []Canary) (*index, error) {
	x := &index{byStart: map[uint32][]needle{}}
	for _, canary := range canaries {
		if canary.Value.Len() < minNeedle {
			return nil, fmt.Errorf("search for canaries: %q has %d bytes, want at least %d", canary.Name, canary.Value.Len(), minNeedle)
		}
		for _, f := range forms(canary) {
			start := binary.LittleEndian.Uint32(f.text)
			name := f.name
			if name == "" {
				name = "plain text"
			}
			x.byStart[start] = append(x.byStart[start], needle{canary.Name, name, f.text})
			h := hash(start)
			x.filter[h/64] |= 1 << (h % 64)
		}
	}
	return x, nil
}

// hash spreads four bytes over 16 bits.
func hash(start uint32) uint32 { return start * 2654435761 >> 16 }

// search returns the first hit of each form in content and in the streams inside it.
func (x *index) search(name string, content []byte, depth int) []Hit {
	hits := x.scan(name, content)
	if joined := withoutBreaks(content); len(joined) < len(content) {
		hits = append(hits, x.scan(name+" > lines joined", joined)...)
	}
	if depth >= maxDepth {
		return hits
	}
	streams(content, func(kind string, offset int, stream []byte) {
		hits = append(hits, x.search(fmt.Sprintf("%s > %s at %d", name, kind, offset), stream, depth+1)...)
	})
	return hits
}

func (x *index) scan(name string, content []byte) []Hit {
	var hits []Hit
	seen := map[[2]string]bool{}
	for i := 0; i+4 <= len(content); i++ {
		start := binary.LittleEndian.Uint32(content[i:])
		h := hash(start)
		if x.filter[h/64]&(1<<(h%64)) == 0 {
			continue
		}
		for _, n := range x.byStart[start] {
			key := [2]string{n.canary, n.form}
			if !seen[key] && bytes.HasPrefix(content[i:], n.text) {
				seen[key] = true
				hits = append(hits, Hit{Canary: n.canary, Source: name, Form: n.form, Offset: i})
			}
		}
	}
	return hits
}

// withoutBreaks removes line breaks, real ones and those escaped in JSON, with the indentation that
// follows: what an encoder broke over lines becomes searchable.
func withoutBreaks(content []byte) []byte {
	if !bytes.ContainsAny(content, "\r\n") && !bytes.Contains(content, []byte(`\n`)) {
		return content
	}
	joined := make([]byte, 0, len(content))
	for i := 0; i < len(content); i++ {
		switch c := content[i]; {
		case c == '\r' || c == '\n':
		case c == '\\' && i+1 < len(content) && (content[i+1] == 'n' || content[i+1] == 'r'):
			i++
		default:
			joined = append(joined, c)
			continue
		}
		for i+1 < len(content) && (content[i+1] == ' ' || content[i+1] == '\t') {
			i++
		}
	}
	return joined
}

// streams finds compressed streams in content, also where they are in base64, and yields what they
// expand to, however much of it is intact.
func streams(content []byte, yield func(kind string, offset int, stream []byte)) {
	for i := 0; i+4 <= len(content); i++ {
		switch c := content[i:]; {
		case c[0] == 0x1f && c[1] == 0x8b && c[2] == 8:
			if reader, err := gzip.NewReader(bytes.NewReader(c)); err == nil {
				expand("gzip", i, reader, yield)
			}
		case c[0] == 0x78 && (c[1] == 0x01 || c[1] == 0x5e || c[1] == 0x9c || c[1] == 0xda):
			if reader, err := zlib.NewReader(bytes.NewReader(c)); err == nil {
				expand("zlib", i, reader, yield)
			}
		case bytes.HasPrefix(c, []byte("H4sI")): // base64 of a gzip header
			if decoded := decodeRun(c); len(decoded) > 18 {
				yield("base64", i, decoded)
			}
		}
	}
}

func expand(kind string, offset int, reader io.Reader, yield func(string, int, []byte)) {
	// A truncated or damaged stream still leaks what comes before the damage.
	stream, _ := io.ReadAll(io.LimitReader(reader, maxStream))
	if len(stream) >= minNeedle {
		yield(kind, offset, stream)
	}
}

// decodeRun decodes the base64 characters that content begins with.
func decodeRun(content []byte) []byte {
	n := 0
	for n < len(content) && isBase64(content[n]) {
		n++
	}
	encoding := base64.RawStdEncoding
	if bytes.ContainsAny(content[:n], "-_") {
		encoding = base64.RawURLEncoding
	}
	decoded, _ := encoding.AppendDecode(nil, content[:n-n%4])
	return decoded
}

func isBase64(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' ||
		c == '+' || c == '/' || c == '-' || c == '_'
}
