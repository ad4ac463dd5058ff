package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Place keeps checkpoints outside the service database, best where whoever holds the database cannot
// write. What it holds can never be forgotten by the ledger again.
type Place interface {
	// Put adds a checkpoint and returns when it is durable. Putting one twice is no error.
	Put(ctx context.Context, checkpoint Checkpoint) error
	// Last returns the largest checkpoint, or false when there is none.
	Last(ctx context.Context) (Checkpoint, bool, error)
}

// maxPlaceFile is the size beyond which a directory begins another file.
const maxPlaceFile = 1 << 20

// Directory is a [Place] in a directory: files that are only ever appended to, each a sequence of
// checkpoints with an empty line after each. They are made so that each can be given to
// `castellan evidence verify --checkpoint`.
type Directory struct {
	path string

	mu   sync.Mutex
	last *Checkpoint // the largest put or read by this process
}

// NewDirectory opens the directory, making it when it does not exist.
func NewDirectory(path string) (*Directory, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open checkpoint directory: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("open checkpoint directory: %w", err)
	}
	return &Directory{path: path}, nil
}

// Put implements [Place].
func (d *Directory) Put(_ context.Context, checkpoint Checkpoint) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil && d.last.Note == checkpoint.Note {
		return nil
	}
	path, err := d.target()
	if err != nil {
		return fmt.Errorf("put checkpoint: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("put checkpoint: %w", err)
	}
	_, err = file.WriteString(checkpoint.Note + "\n")
	if err := errors.Join(err, file.Sync(), file.Close(), syncDir(d.path)); err != nil {
		return fmt.Errorf("put checkpoint: %w", err)
	}
	d.last = &checkpoint
	return nil
}

// target returns the file to append to: the last one, or the one after it when that is full or ends in
// a checkpoint that a crash cut short.
func (d *Directory) target() (string, error) {
	names, err := d.files()
	if err != nil {
		return "", err
	}
	name := fileName(len(names))
	if len(names) > 0 {
		last := filepath.Join(d.path, names[len(names)-1])
		text, err := os.ReadFile(last)
		if err != nil {
			return "", err
		}
		if _, cut, err := splitCheckpoints(string(text)); err == nil && cut == "" && len(text) < maxPlaceFile {
			return last, nil
		}
	}
	return filepath.Join(d.path, name), nil
}

func fileName(n int) string { return fmt.Sprintf("checkpoints-%06d.txt", n) }

// files returns the names of the directory's files, oldest first.
func (d *Directory) files() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.Type().IsRegular() && strings.HasPrefix(entry.Name(), "checkpoints-") {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	for i, name := range names {
		if name != fileName(i) {
			return nil, fmt.Errorf("%q is there where %q was expected: a file is missing: %w", name, fileName(i), fs.ErrNotExist)
		}
	}
	return names, nil
}

// Last implements [Place].
func (d *Directory) Last(context.Context) (Checkpoint, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	names, err := d.files()
	if err != nil {
		return Checkpoint{}, false, fmt.Errorf("read checkpoints: %w", err)
	}
	for _, name := range slices.Backward(names) {
		text, err := os.ReadFile(filepath.Join(d.path, name))
		if err != nil {
			return Checkpoint{}, false, fmt.Errorf("read checkpoints: %w", err)
		}
		list, _, err := splitCheckpoints(string(text))
		if err != nil {
			return Checkpoint{}, false, fmt.Errorf("read checkpoints in %q: %w", name, err)
		}
		if len(list) > 0 {
			largest := slices.MaxFunc(list, func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
			d.last = &largest
			return largest, true, nil
		}
	}
	return Checkpoint{}, false, nil
}

// splitCheckpoints reads a sequence of checkpoints. What follows the last complete one was cut short by
// a crash and never counted; it is returned as it is.
func splitCheckpoints(text string) (list []Checkpoint, cut string, err error) {
	for {
		body, rest, _ := strings.Cut(text, "\n\n")
		signatures, rest, found := strings.Cut(rest, "\n\n")
		if !found {
			return list, text, nil
		}
		checkpoint, err := ParseCheckpoint(body + "\n\n" + signatures + "\n")
		if err != nil {
			return nil, "", err
		}
		list = append(list, checkpoint)
		text = rest
	}
}
