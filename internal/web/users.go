package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// user is a person who may sign in.
type user struct {
	Name    string    `json:"name"`
	Hash    string    `json:"hash"` // bcrypt
	Created time.Time `json:"created"`
}

// users are the local users, in a file that belongs to its owner alone.
type users struct {
	path  string
	cost  int
	decoy []byte        // compared with when a name is unknown, so that it takes as long
	slots chan struct{} // bcrypt is slow on purpose: this many at a time

	mu   sync.Mutex
	list []user
}

type userFile struct {
	Users []user `json:"users"`
}

func openUsers(path string, cost int) (*users, error) {
	decoy, err := bcrypt.GenerateFromPassword([]byte(newToken()), cost)
	if err != nil {
		return nil, fmt.Errorf("open users: %w", err)
	}
	u := &users{path: path, cost: cost, decoy: decoy, slots: make(chan struct{}, 2)}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open users: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("open users: %s has mode %o, want 600: it decides who may sign in", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open users: %w", err)
	}
	var file userFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("open users: %s: %w", path, err)
	}
	u.list = file.Users
	return u, nil
}

// none reports whether nobody can sign in yet.
func (u *users) none() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.list) == 0
}

// verify reports whether the password is the user's. An unknown name takes as long as a known one.
func (u *users) verify(name, password string) bool {
	u.slots <- struct{}{}
	defer func() { <-u.slots }()
	hash, known := u.decoy, false
	u.mu.Lock()
	for _, candidate := range u.list {
		if candidate.Name == name {
			hash, known = []byte(candidate.Hash), true
		}
	}
	u.mu.Unlock()
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && known
}

// Bounds of a password. bcrypt takes no more than 72 bytes, and a cut password must not be accepted.
const (
	leastPassword = 12
	mostPassword  = 72
)

var userName = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,31}$`)

// errUnfit is a name or password that cannot be taken; its text is for the person who chose it.
type errUnfit string

func (e errUnfit) Error() string { return string(e) }

// add makes a user; the file is durable when it returns nil.
func (u *users) add(name, password string, now time.Time) error {
	switch {
	case !userName.MatchString(name):
		return errUnfit("The name must begin with a letter and consist of lower-case letters, digits, dots, dashes and underscores.")
	case len(password) < leastPassword:
		return errUnfit(fmt.Sprintf("The password must have at least %d characters.", leastPassword))
	case len(password) > mostPassword:
		return errUnfit(fmt.Sprintf("The password must have at most %d bytes.", mostPassword))
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), u.cost)
	if err != nil {
		return fmt.Errorf("hash password: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	list := append(u.list[:len(u.list):len(u.list)], user{Name: name, Hash: string(hash), Created: now.UTC()})
	if err := writeUsers(u.path, list); err != nil {
		return fmt.Errorf("write users: %w", err)
	}
	u.list = list
	return nil
}

func writeUsers(path string, list []user) error {
	text, err := json.MarshalIndent(userFile{Users: list}, "", "  ")
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".users-*") // mode 600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // gone after the rename
	_, err = file.Write(append(text, '\n'))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
