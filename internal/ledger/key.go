package ledger

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// nextSuffix is appended to the key file's name for the key that is about to take over.
const nextSuffix = ".next"

// Key is a public key of the ledger under the log's name.
type Key struct {
	public   ed25519.PublicKey
	text     string
	verifier note.Verifier
}

// newKey names a public key after the log that it signs.
func newKey(origin string, public ed25519.PublicKey) (Key, error) {
	text, err := note.NewEd25519VerifierKey(origin, public)
	if err != nil {
		return Key{}, fmt.Errorf("name public key: %w", err)
	}
	return parseKey(text)
}

// parseKey reads a key in the form of a note's verifier key, "name+hash+base64".
func parseKey(text string) (Key, error) {
	verifier, err := note.NewVerifier(text)
	if err != nil {
		return Key{}, fmt.Errorf("read public key: %w", err)
	}
	public, err := ParsePublicKey([]byte(text))
	if err != nil {
		return Key{}, err
	}
	return Key{public, text, verifier}, nil
}

// String returns the key as a note's verifier key: what an auditor pins.
func (k Key) String() string { return k.text }

// ParsePublicKey reads an Ed25519 public key that an auditor has pinned: the line that the ledger shows
// ("name+hash+base64"), or a PEM file.
func ParsePublicKey(text []byte) (ed25519.PublicKey, error) {
	if block, _ := pem.Decode(text); block != nil {
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read public key: %w", err)
		}
		public, ok := parsed.(ed25519.PublicKey)
		if !ok {
			return nil, errors.New("read public key: it is not an Ed25519 key")
		}
		return public, nil
	}
	line := strings.TrimSpace(string(text))
	if _, err := note.NewVerifier(line); err != nil {
		return nil, fmt.Errorf("read public key: %w, want a line like name+hash+base64, or PEM", err)
	}
	return publicOf(line)
}

// signer signs notes in the log's name.
type signer struct {
	key     Key
	private ed25519.PrivateKey
}

func newSigner(origin string, private ed25519.PrivateKey) (*signer, error) {
	key, err := newKey(origin, private.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return &signer{key, private}, nil
}

// Name, KeyHash and Sign make it a note.Signer.
func (s *signer) Name() string                     { return s.key.verifier.Name() }
func (s *signer) KeyHash() uint32                  { return s.key.verifier.KeyHash() }
func (s *signer) Sign(text []byte) ([]byte, error) { return ed25519.Sign(s.private, text), nil }

// originOf derives a log's name from its first key, so that two logs never share one.
func originOf(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return "castellan.dev/ledger/" + hex.EncodeToString(sum[:8])
}

// loadKey reads a private key (PKCS#8, PEM) from a file that only its owner may read.
func loadKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("load signing key: %q has mode %04o, want 0600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("load signing key: %q is not one PEM block PRIVATE KEY", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load signing key: %q is not PKCS#8", path)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load signing key: %q is not an Ed25519 key", path)
	}
	return private, nil
}

// createKey makes a private key and a file for it, and returns when both are durable. It never
// replaces a file.
func createKey(path string) (ed25519.PrivateKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("create signing key: %w", err)
	}
	draft := path + ".draft"
	file, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create signing key: %w", err)
	}
	err = errors.Join(file.Chmod(0o600), pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), file.Sync(), file.Close())
	if err == nil {
		err = os.Link(draft, path) // unlike a rename, it fails when the file is there
	}
	if err := errors.Join(err, os.Remove(draft), syncDir(filepath.Dir(path))); err != nil {
		return nil, fmt.Errorf("create signing key: %w", err)
	}
	return private, nil
}

// keyInForce loads the key that the log says is in force. It finishes a key change that a crash
// interrupted: the log decides whether the change took place.
func keyInForce(path string, want Key) (ed25519.PrivateKey, error) {
	holds := func(path string) (ed25519.PrivateKey, bool, error) {
		private, err := loadKey(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, false, nil
		}
		return private, err == nil && want.public.Equal(private.Public().(crypto.PublicKey)), err
	}
	private, current, err := holds(path)
	if err != nil {
		return nil, err
	}
	next, changed, err := holds(path + nextSuffix)
	switch {
	case current:
		// A key that the log does not know about never took over; a torn file never held one.
		if err := os.Remove(path + nextSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove unused key: %w", err)
		}
		return private, nil
	case err != nil:
		return nil, err
	case changed:
		return next, promoteKey(path)
	}
	return nil, fmt.Errorf("load signing key: %q does not hold the key that signs this log, %s", path, want)
}

// promoteKey puts the next key in the place of the one before, which is thereby erased.
func promoteKey(path string) error {
	if err := os.Rename(path+nextSuffix, path); err != nil {
		return fmt.Errorf("promote signing key: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
