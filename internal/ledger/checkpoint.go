package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is a signed statement that the log had this many records and this root hash. The signature
// is in Note; only [Verify] and the ledger itself check it.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
	Note   string // the signed note, byte for byte
}

// maxSize bounds what a file may claim: arithmetic on trees is safe below it.
const maxSize = 1 << 48

// signCheckpoint makes a checkpoint.
func signCheckpoint(s *signer, size int64, root tlog.Hash) (Checkpoint, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", s.Name(), size, root)
	signed, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	return Checkpoint{s.Name(), size, root, string(signed)}, nil
}

// ParseCheckpoint reads a checkpoint. It does not look at the signatures.
func ParseCheckpoint(text string) (Checkpoint, error) {
	body, _, found := strings.Cut(text, "\n\n")
	lines := strings.Split(body, "\n")
	if !found || len(lines) < 3 || lines[0] == "" {
		return Checkpoint{}, errors.New("read checkpoint: want three lines, an empty line and signatures")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > maxSize || lines[1] != strconv.FormatInt(size, 10) {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %q is not a number of records", lines[1])
	}
	hash, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(hash) != tlog.HashSize {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %q is not a root hash", lines[2])
	}
	return Checkpoint{lines[0], size, tlog.Hash(hash), text}, nil
}

// signedBy reports whether the key has signed the checkpoint.
func (c Checkpoint) signedBy(key Key) bool {
	opened, err := note.Open([]byte(c.Note), note.VerifierList(key.verifier))
	return err == nil && len(opened.Sigs) > 0
}
