package demo

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// keys collects every private key that is delivered while the show runs.
type keys struct {
	files []string

	mu    sync.Mutex
	found map[string]*ecdsa.PrivateKey // by the text of the file
}

func newKeys(l layout) *keys {
	return &keys{
		files: []string{
			l.pair(orders) + "/tls.key", l.pair("payments-1") + "/tls.key", l.pair(straggling) + "/tls.key",
			l.combined(auditor), l.combined(monitor),
		},
		found: map[string]*ecdsa.PrivateKey{},
	}
}

// run collects until the context ends.
func (k *keys) run(ctx context.Context) {
	for ctx.Err() == nil {
		k.collect()
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// collect reads the keys that are served now. A file that is being replaced is read the next time.
func (k *keys) collect() {
	for _, path := range k.files {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		k.mu.Lock()
		_, known := k.found[string(text)]
		k.mu.Unlock()
		if known {
			continue
		}
		certificate := text
		if strings.HasSuffix(path, ".key") {
			if certificate, err = os.ReadFile(filepath.Join(filepath.Dir(path), "tls.crt")); err != nil {
				continue
			}
		}
		pair, err := tls.X509KeyPair(certificate, text)
		if err != nil {
			continue
		}
		if key, ok := pair.PrivateKey.(*ecdsa.PrivateKey); ok {
			k.mu.Lock()
			k.found[string(text)] = key
			k.mu.Unlock()
		}
	}
}

// needles returns the forms in which a key may be found: its secret number plain, in hexadecimal and in
// base64 at every alignment, and the lines of its PEM text.
func (k *keys) needles() ([][]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all [][]byte
	for text, key := range k.found {
		secret, err := key.Bytes()
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		all = append(all, secret, []byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret))))
		for skip := range 3 {
			all = append(all, []byte(base64.RawStdEncoding.EncodeToString(secret[skip:skip+(len(secret)-skip)/3*3])))
		}
		_, body, _ := strings.Cut(text, "PRIVATE KEY-----\n")
		lines := strings.Split(body, "\n")
		if len(lines) < 2 || len(lines[0]) != 64 {
			return nil, errors.New("read key: not the PEM that is expected")
		}
		all = append(all, []byte(lines[0]), []byte(lines[0][48:]+lines[1]))
	}
	return all, nil
}

// leaks searches what engine, ledger, service database and logs have written for every key of the
// show. The search is tried on the served files first, where it must find them.
func leaks(ctx context.Context, s *show) (string, error) {
	s.keys.collect()
	needles, err := s.keys.needles()
	if err != nil {
		return "", err
	}
	if hits, _, err := search(ctx, needles, s.layout.served("")); err != nil || len(hits) == 0 {
		return "", errors.Join(err, errors.New("the search does not even find the keys that are served"))
	}
	databases, err := filepath.Glob(s.layout.state.Database() + "*")
	if err != nil {
		return "", err
	}
	evidence, err := filepath.Glob(s.layout.evidence("*"))
	if err != nil {
		return "", err
	}
	places := append([]string{s.layout.state.Engine(), s.layout.state.Store(), s.layout.state.Checkpoints(), s.layout.logs()}, append(databases, evidence...)...)
	hits, files, err := search(ctx, needles, places...)
	if err != nil {
		return "", err
	}
	if len(hits) > 0 {
		return "", fmt.Errorf("a private key is in %s", strings.Join(hits, ", "))
	}
	s.outcome.leak = fmt.Sprintf("none of %d keys is in any of %d files of engine, databases, store, evidence and logs", len(s.keys.found), files)
	return s.outcome.leak, nil
}

// search returns the files that hold one of the needles, and how many were read. A file that was removed
// meanwhile is none.
func search(ctx context.Context, needles [][]byte, places ...string) (hits []string, files int, err error) {
	look := func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		files++
		for _, needle := range needles {
			if bytes.Contains(text, needle) {
				hits = append(hits, path)
				break
			}
		}
		return ctx.Err()
	}
	for _, place := range places {
		if err := filepath.WalkDir(place, look); err != nil {
			return hits, files, fmt.Errorf("search %s: %w", place, err)
		}
	}
	return hits, files, nil
}
