package leak

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// minNeedle is the shortest text worth searching: anything shorter is found by chance.
const minNeedle = 8

// form is one way to write a canary.
type form struct {
	name string
	text []byte
}

// forms returns every way in which a canary may be written, without duplicates.
func forms(canary Canary) []form {
	var all []form
	for _, part := range parts(canary) {
		for _, written := range spellings(part.text) {
			name := join(written.name, part.name)
			all = append(all, form{name, written.text})
			for _, coded := range codings(written.text) {
				all = append(all, form{join(coded.name, name), coded.text})
				if written.name != "" || !strings.HasPrefix(coded.name, "base64") {
					continue
				}
				// A payload's data is base64 in an exported history, and a byte slice inside it is again.
				for _, twice := range codings(coded.text) {
					all = append(all, form{join(twice.name, join(coded.name, name)), twice.text})
				}
			}
		}
	}
	seen := map[string]bool{}
	unique := all[:0]
	for _, f := range all {
		if len(f.text) >= minNeedle && !seen[string(f.text)] {
			seen[string(f.text)] = true
			unique = append(unique, f)
		}
	}
	return unique
}

// join reads "a of b", leaving out what is empty.
func join(outer, inner string) string {
	if outer == "" || inner == "" {
		return outer + inner
	}
	return outer + " of " + inner
}

// parts returns the whole value, the halves of a random one (a database page may end in its middle),
// and what makes a private key secret.
func parts(canary Canary) []form {
	value := canary.Value.Reveal()
	block, _ := pem.Decode(value)
	if block == nil {
		found := []form{{"", value}}
		if half := len(value) / 2; canary.random && half >= minNeedle {
			found = append(found, form{"first half", value[:half]}, form{"second half", value[half:]})
		}
		return found
	}
	found := []form{{"", bytes.TrimSpace(value)}}
	found = append(found,
		form{"PEM body without line breaks", []byte(base64.StdEncoding.EncodeToString(block.Bytes))},
		form{"DER", block.Bytes})
	for i, scalar := range scalars(block.Bytes) {
		found = append(found, form{fmt.Sprintf("private scalar %d", i+1), scalar})
	}
	return found
}

// scalars returns the numbers that a private key in DER keeps secret: they are found even where the
// key was written in another format.
func scalars(der []byte) [][]byte {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if key, err := x509.ParseECPrivateKey(der); err == nil {
			parsed = key
		} else if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
			parsed = key
		}
	}
	switch key := parsed.(type) {
	case *ecdsa.PrivateKey:
		if d, err := key.Bytes(); err == nil {
			return [][]byte{d}
		}
	case ed25519.PrivateKey:
		return [][]byte{key.Seed()}
	case *rsa.PrivateKey:
		found := [][]byte{key.D.Bytes()}
		for _, prime := range key.Primes {
			found = append(found, prime.Bytes())
		}
		return found
	}
	return nil
}

// spellings returns value as text formats write it.
func spellings(value []byte) []form {
	escapedHTML, _ := json.Marshal(string(value))
	var plainJSON bytes.Buffer
	encoder := json.NewEncoder(&plainJSON)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(string(value)) // a string always encodes
	query, path := url.QueryEscape(string(value)), url.PathEscape(string(value))
	quoted := strconv.Quote(string(value))
	ascii := strconv.QuoteToASCII(string(value))
	return []form{
		{"", value},
		{"JSON", trimQuotes(escapedHTML)},
		{"JSON", trimQuotes(bytes.TrimSpace(plainJSON.Bytes()))},
		{"Go quoting", []byte(quoted[1 : len(quoted)-1])},
		{"Go quoting", []byte(ascii[1 : len(ascii)-1])},
		{"URL query", []byte(query)},
		{"URL query", lowerEscapes(query)},
		{"URL path", []byte(path)},
		{"URL path", lowerEscapes(path)},
		{"CRLF line ends", bytes.ReplaceAll(value, []byte("\n"), []byte("\r\n"))},
	}
}

// codings returns value in the binary-to-text codes.
func codings(value []byte) []form {
	spaced, comma := numbers(value, " "), numbers(value, ",")
	all := []form{
		{"hex", []byte(hex.EncodeToString(value))},
		{"upper-case hex", []byte(strings.ToUpper(hex.EncodeToString(value)))},
		{"colon hex", []byte(strings.ReplaceAll(fmt.Sprintf("% x", value), " ", ":"))},
		{"upper-case colon hex", []byte(strings.ReplaceAll(fmt.Sprintf("% X", value), " ", ":"))},
		{"list of numbers", spaced},
		{"JSON list of numbers", comma},
	}
	for alignment := range 3 {
		all = append(all,
			form{"base64", aligned(base64.RawStdEncoding, value, alignment)},
			form{"base64url", aligned(base64.RawURLEncoding, value, alignment)})
	}
	return all
}

// aligned encodes value as it looks behind alignment other bytes, without the characters at either
// end that depend on its neighbours.
func aligned(encoding *base64.Encoding, value []byte, alignment int) []byte {
	padded := append(make([]byte, alignment), value...)
	encoded := encoding.EncodeToString(padded)
	first := (alignment*8 + 5) / 6
	last := len(padded) * 8 / 6
	if first >= last {
		return nil
	}
	return []byte(encoded[first:last])
}

// numbers writes value as fmt prints a byte slice.
func numbers(value []byte, separator string) []byte {
	texts := make([]string, len(value))
	for i, b := range value {
		texts[i] = strconv.Itoa(int(b))
	}
	return []byte(strings.Join(texts, separator))
}

// trimQuotes cuts one quote off each end; bytes.Trim would also take an escaped one.
func trimQuotes(quoted []byte) []byte { return quoted[1 : len(quoted)-1] }

// lowerEscapes turns %2F into %2f.
func lowerEscapes(escaped string) []byte {
	lowered := []byte(escaped)
	for i := 0; i+2 < len(lowered); i++ {
		if lowered[i] == '%' {
			copy(lowered[i+1:i+3], bytes.ToLower(lowered[i+1:i+3]))
		}
	}
	return lowered
}
