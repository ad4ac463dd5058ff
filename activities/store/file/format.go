package file

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"castellan.dev/activities/store"
	"castellan.dev/internal/keyring"
)

// A version's file is
//
//	magic | state | time written | key id | sealed data key | sealed value
//
// with the key id and the sealed data key behind their lengths. A tombstone seals an empty data key
// and has no value. The keyring's seal of the data key is bound to everything before it and to the
// document's name and version; so is the value's under the data key.
const (
	magic = "castellan store 1\n"

	stateLive   = 'L'
	stateErased = 'E'

	// maxHeader bounds what is read to know a version's header.
	maxHeader = len(magic) + 1 + 8 + 1 + 64 + 1 + 255
)

var errMalformed = errors.New("it is not a version's file, or was cut short")

// header is what a version's file says before its value.
type header struct {
	state   byte
	written time.Time
	keyID   string
	sealed  []byte // the data key
	size    int    // of the encoded header
}

// prefix encodes what comes before the sealed data key.
func (h header) prefix() []byte {
	out := append([]byte(magic), h.state)
	out = binary.BigEndian.AppendUint64(out, uint64(h.written.UnixNano()))
	out = append(out, byte(len(h.keyID)))
	return append(out, h.keyID...)
}

// bound is what both seals of a version are bound to.
func (h header) bound(name string, version store.Version) []byte {
	out := binary.BigEndian.AppendUint64(h.prefix(), uint64(version))
	return append(out, name...)
}

// encodeLive returns the file of a version with a value.
func encodeLive(ring *keyring.Keyring, name string, version store.Version, written time.Time, value []byte) ([]byte, error) {
	h := header{state: stateLive, written: written, keyID: ring.Current()}
	bound := h.bound(name, version)
	dataKey := make([]byte, 32)
	rand.Read(dataKey)
	defer clear(dataKey)
	aead, err := gcm(dataKey)
	if err != nil {
		return nil, err
	}
	_, h.sealed = ring.Seal(dataKey, bound)
	return aead.Seal(h.encode(), nil, value, bound), nil
}

// encodeErased returns the file of a version whose value is gone.
func encodeErased(ring *keyring.Keyring, name string, version store.Version, written time.Time) []byte {
	h := header{state: stateErased, written: written, keyID: ring.Current()}
	_, h.sealed = ring.Seal(nil, h.bound(name, version))
	return h.encode()
}

func (h header) encode() []byte {
	out := append(h.prefix(), byte(len(h.sealed)))
	return append(out, h.sealed...)
}

// decodeHeader reads the header that content begins with. Nothing in it is authentic before open.
func decodeHeader(content []byte) (header, error) {
	var h header
	rest, ok := bytes.CutPrefix(content, []byte(magic))
	if !ok || len(rest) < 1+8+1 {
		return h, errMalformed
	}
	h.state = rest[0]
	h.written = time.Unix(0, int64(binary.BigEndian.Uint64(rest[1:]))).UTC()
	id, rest, ok := cutField(rest[9:])
	if !ok {
		return h, errMalformed
	}
	h.keyID = string(id)
	if h.sealed, rest, ok = cutField(rest); !ok || (h.state != stateLive && h.state != stateErased) {
		return h, errMalformed
	}
	h.size = len(content) - len(rest)
	return h, nil
}

// cutField splits off a field behind its one-byte length.
func cutField(content []byte) (field, rest []byte, ok bool) {
	if len(content) == 0 || len(content) < 1+int(content[0]) {
		return nil, nil, false
	}
	n := 1 + int(content[0])
	return content[1:n], content[n:], true
}

// open authenticates the header as that of the given version and returns its data key: empty for a
// tombstone.
func (h header) open(ring *keyring.Keyring, name string, version store.Version) ([]byte, error) {
	return ring.Open(h.keyID, h.sealed, h.bound(name, version))
}

// decodeValue authenticates and decrypts the file of a version. The value is nil for a tombstone.
func decodeValue(ring *keyring.Keyring, name string, version store.Version, content []byte) (header, []byte, error) {
	h, err := decodeHeader(content)
	if err != nil {
		return h, nil, err
	}
	dataKey, err := h.open(ring, name, version)
	if err != nil {
		return h, nil, err
	}
	defer clear(dataKey)
	if h.state == stateErased {
		return h, nil, nil
	}
	aead, err := gcm(dataKey)
	if err != nil {
		return h, nil, errMalformed
	}
	value, err := aead.Open([]byte{}, nil, content[h.size:], h.bound(name, version))
	if err != nil {
		return h, nil, keyring.ErrNotAuthentic
	}
	return h, value, nil
}

func gcm(dataKey []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(dataKey)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
