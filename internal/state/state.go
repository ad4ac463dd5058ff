// Package state knows what lies where in a state directory, and how other processes on the machine find
// the one that runs there.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"castellan.dev/activities"
)

// Dir is a state directory. It belongs to its owner alone.
type Dir string

// Default returns the state directory that is used when none is named: castellan under the user's data
// directory (XDG Base Directory Specification).
func Default() (Dir, error) {
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return Dir(filepath.Join(data, "castellan")), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the user's data directory: %w", err)
	}
	return Dir(filepath.Join(home, ".local", "share", "castellan")), nil
}

// Make creates the directory with mode 0700, and refuses one that others may enter.
func (d Dir) Make() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	info, err := os.Stat(string(d))
	if err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("state directory %s has mode %o: want 700, because keys live in it", d, info.Mode().Perm())
	}
	return nil
}

func (d Dir) join(name ...string) string {
	return filepath.Join(append([]string{string(d)}, name...)...)
}

// Where things lie.
func (d Dir) Engine() string        { return d.join("engine") }        // the embedded Temporal server's files
func (d Dir) CA() string            { return d.join("ca") }            // the embedded certificate authority
func (d Dir) Store() string         { return d.join("store") }         // the encrypted file store
func (d Dir) StoreKeys() string     { return d.join("store.keyring") } // its keyring
func (d Dir) CodecKeys() string     { return d.join("codec.keyring") } // the payload codec's keyring
func (d Dir) Identity() string      { return d.join("identity") }      // castellan's own CA and identities
func (d Dir) Database() string      { return d.join("service.db") }    // inventory, rotation records, evidence
func (d Dir) LedgerKey() string     { return d.join("ledger.key") }    // the only signing key
func (d Dir) Checkpoints() string   { return d.join("checkpoints") }   // signed checkpoints of the ledger
func (d Dir) Config() string        { return d.join("castellan.yaml") }
func (d Dir) Users() string         { return d.join("users.json") } // local users of the web page
func (d Dir) Memory() string        { return d.join("memory") }     // what reloads remember
func (d Dir) Web() string           { return d.join("web") }        // login tokens and the web page's own state
func (d Dir) endpointsFile() string { return d.join("endpoints.json") }

// Endpoints are the addresses under which the process that runs in the directory answers.
type Endpoints struct {
	Engine    string `json:"engine"` // host:port of the Temporal frontend
	Namespace string `json:"namespace"`
	API       string `json:"api"` // https://host:port
	Web       string `json:"web"` // http://host:port
	CA        CA     `json:"ca"`
	PID       int    `json:"pid"`
}

// CA says how the embedded certificate authority is asked for certificates.
type CA struct {
	URL          string `json:"url"`
	Root         string `json:"root"` // file
	Provisioner  string `json:"provisioner"`
	PasswordFile string `json:"password_file"`
	CRL          string `json:"crl"` // URL
}

// Publish writes the endpoints for other processes, atomically.
func (d Dir) Publish(e Endpoints) error {
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	temporary := d.endpointsFile() + ".tmp"
	if err := os.WriteFile(temporary, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("publish endpoints: %w", err)
	}
	if err := os.Rename(temporary, d.endpointsFile()); err != nil {
		return fmt.Errorf("publish endpoints: %w", err)
	}
	return nil
}

// Endpoints reads what Publish wrote. It is NotFound when nothing ever ran there.
func (d Dir) Endpoints() (Endpoints, error) {
	text, err := os.ReadFile(d.endpointsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return Endpoints{}, activities.Errorf(activities.NotFound, "nothing has run in %s: start castellan-dev, or name another directory with --state", d)
	}
	if err != nil {
		return Endpoints{}, fmt.Errorf("read endpoints: %w", err)
	}
	var e Endpoints
	if err := json.Unmarshal(text, &e); err != nil {
		return Endpoints{}, fmt.Errorf("read endpoints: %w", err)
	}
	return e, nil
}
