package ledger

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// changeTitle is the first line of the note by which a key hands over to the next.
const changeTitle = "castellan.dev/ledger key change"

// keyChain is the sequence of keys that sign a log, each introduced by the one before it.
type keyChain struct {
	origin string
	links  []keyLink
}

// keyLink is one key of a chain.
type keyLink struct {
	key   Key
	since int64  // index of the record that introduced it; it signs checkpoints larger than that
	note  string // the hand-over, signed by the key before and by this one; empty for the first
}

// newChain begins a chain with the key that the log's first record names.
func newChain(text string) (*keyChain, error) {
	key, err := parseKey(text)
	if err != nil {
		return nil, err
	}
	return &keyChain{key.verifier.Name(), []keyLink{{key: key}}}, nil
}

func (c *keyChain) current() keyLink { return c.links[len(c.links)-1] }

// generation counts the key changes so far.
func (c *keyChain) generation() int64 { return int64(len(c.links)) - 1 }

// handOver makes the note that introduces the next key in the record with the given index.
func (c *keyChain) handOver(previous, next *signer, index int64) (string, error) {
	signed, err := note.Sign(&note.Note{Text: c.changeText(next.key, index)}, previous, next)
	if err != nil {
		return "", fmt.Errorf("sign key change: %w", err)
	}
	return string(signed), nil
}

func (c *keyChain) changeText(next Key, index int64) string {
	return fmt.Sprintf("%s\n%s\n%d\n%d\n%s\n%s\n", changeTitle, c.origin, len(c.links), index, c.current().key, next)
}

// extend checks a hand-over and adds its key. The note says at which index it stands.
func (c *keyChain) extend(signed string) (keyLink, error) {
	body, _, _ := strings.Cut(signed, "\n\n")
	lines := strings.Split(body, "\n")
	if len(lines) != 6 || lines[0] != changeTitle {
		return keyLink{}, errors.New("read key change: not a key change note")
	}
	index, err := strconv.ParseInt(lines[3], 10, 64)
	if err != nil || index <= c.current().since {
		return keyLink{}, fmt.Errorf("read key change: %q is not an index after %d", lines[3], c.current().since)
	}
	next, err := parseKey(lines[5])
	if err != nil {
		return keyLink{}, err
	}
	opened, err := note.Open([]byte(signed), note.VerifierList(c.current().key.verifier, next.verifier))
	if err != nil || len(opened.Sigs) != 2 || next.text == c.current().key.text {
		return keyLink{}, fmt.Errorf("read key change: not signed by the key before, %s, and by the next", c.current().key)
	}
	if opened.Text != c.changeText(next, index) {
		return keyLink{}, errors.New("read key change: it belongs to another log or another place in it")
	}
	link := keyLink{next, index, signed}
	c.links = append(c.links, link)
	return link, nil
}

// signing returns the key that signs checkpoints of the given size.
func (c *keyChain) signing(size int64) Key {
	for i := len(c.links) - 1; i > 0; i-- {
		if c.links[i].since < size {
			return c.links[i].key
		}
	}
	return c.links[0].key
}

// find returns the place of a key in the chain, or -1.
func (c *keyChain) find(public ed25519.PublicKey) int {
	for i, link := range c.links {
		if link.key.public.Equal(public) {
			return i
		}
	}
	return -1
}

// signer returns the place of a key that has signed the checkpoint, or -1.
func (c *keyChain) signer(checkpoint Checkpoint) int {
	for i, link := range c.links {
		if checkpoint.signedBy(link.key) {
			return i
		}
	}
	return -1
}

// texts returns the first key and the hand-overs after it.
func (c *keyChain) texts() (first string, changes []string) {
	for _, link := range c.links[1:] {
		changes = append(changes, link.note)
	}
	return c.links[0].key.text, changes
}

// publicOf returns the public key inside a verifier key that was checked already.
func publicOf(text string) (ed25519.PublicKey, error) {
	encoded := text[strings.LastIndexByte(text, '+')+1:]
	if parts := strings.SplitN(text, "+", 3); len(parts) == 3 {
		encoded = parts[2] // base64 may hold a plus itself
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return nil, errors.New("read public key: not an Ed25519 key")
	}
	return ed25519.PublicKey(raw[1:]), nil
}
