// Package keyring holds the AES-256 keys under which castellan encrypts what it keeps at rest: the
// payloads of its workflows and the documents of the embedded store.
//
// A ring has one current key, which seals, and any number of earlier ones, which still open. In
// development its file holds the keys themselves (mode 0600); in production the file holds them
// wrapped by Vault's transit engine and [LoadWrapped] unwraps all of them once, at start, so that no
// payload waits for a remote call and a Vault that is down stops nobody.
//
// To change keys: [Add] the next key to every process's file and restart them, then [Promote] it.
// [Rotate] does both at once for a ring that one machine uses. A key may leave the file only when
// nothing sealed under it is kept any more. Nothing here ever prints a key.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"maps"
	"slices"

	"castellan.dev/internal/secret"
)

const keySize = 32

// ErrUnknownKey means that something was sealed under a key that this ring does not hold: the key
// file of this process is behind, or what was sealed is not ours.
var ErrUnknownKey = errors.New("key is not in the keyring")

// ErrNotAuthentic means that something was changed after it was sealed, or was sealed for another use.
var ErrNotAuthentic = errors.New("authentication failed: altered, or bound to another place")

// Keyring seals under its current key and opens under all of its keys. It is immutable and safe for
// concurrent use.
//
// Nonces are random: a key is good for some four thousand million seals.
type Keyring struct {
	current string
	keys    map[string]cipher.AEAD
}

// New makes a ring of the given keys by id. Every key has 32 bytes and current names one of them.
func New(current string, keys map[string]secret.Bytes) (*Keyring, error) {
	ring := &Keyring{current: current, keys: make(map[string]cipher.AEAD, len(keys))}
	for id, key := range keys {
		if !validID(id) {
			return nil, fmt.Errorf("make keyring: key id %q: want 1 to 64 of a-z, 0-9 and '-'", id)
		}
		if key.Len() != keySize {
			return nil, fmt.Errorf("make keyring: key %q has %d bytes, want %d", id, key.Len(), keySize)
		}
		block, err := aes.NewCipher(key.Reveal())
		if err != nil {
			return nil, fmt.Errorf("make keyring: key %q: %w", id, err)
		}
		if ring.keys[id], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, fmt.Errorf("make keyring: key %q: %w", id, err)
		}
	}
	if _, ok := ring.keys[current]; !ok {
		return nil, fmt.Errorf("make keyring: current key %q: %w", current, ErrUnknownKey)
	}
	return ring, nil
}

// Current returns the id of the key that seals.
func (k *Keyring) Current() string { return k.current }

// IDs returns the ids of all keys, sorted.
func (k *Keyring) IDs() []string { return slices.Sorted(maps.Keys(k.keys)) }

// Seal encrypts plaintext under the current key and returns that key's id beside the sealed bytes,
// which begin with their nonce. The same bound bytes must be given to Open; they are not part of
// the result.
func (k *Keyring) Seal(plaintext, bound []byte) (keyID string, sealed []byte) {
	return k.current, k.keys[k.current].Seal(nil, nil, plaintext, bound)
}

// Open decrypts what Seal returned. Its error is ErrUnknownKey or ErrNotAuthentic.
func (k *Keyring) Open(keyID string, sealed, bound []byte) ([]byte, error) {
	key, ok := k.keys[keyID]
	if !ok {
		return nil, fmt.Errorf("open under key %q: %w", printable(keyID), ErrUnknownKey)
	}
	plaintext, err := key.Open(nil, nil, sealed, bound)
	if err != nil {
		return nil, fmt.Errorf("open under key %q: %w", keyID, ErrNotAuthentic)
	}
	return plaintext, nil
}

// validID reports whether id may name a key.
func validID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// printable keeps an id that came from outside out of errors unless it could be ours.
func printable(id string) string {
	if validID(id) {
		return id
	}
	return "(malformed id)"
}
