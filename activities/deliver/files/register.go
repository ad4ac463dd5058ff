package files

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"castellan.dev/activities"
)

// register is the fence: what castellan wrote last, what it is about to write, and which names beside
// the served files are its own. It is written before the served files change and again afterwards.
type register struct {
	Delivery string   `json:"delivery"`          // what is served, so that two deliveries cannot share a state directory
	Written  *write   `json:"written,omitempty"` // the last write that was seen to be complete
	Intent   *write   `json:"intent,omitempty"`  // a write that was begun; it may or may not have happened
	From     string   `json:"from,omitempty"`    // with Intent: the fingerprint that was there when it began
	Owned    []string `json:"owned,omitempty"`   // paths that castellan made: generations and temporary names
}

// write is one write to the served files.
type write struct {
	Epoch       activities.Epoch      `json:"epoch"`
	Fingerprint string                `json:"fingerprint"`
	Rotation    activities.RotationID `json:"rotation,omitempty"`
	Restores    activities.Epoch      `json:"restores,omitempty"` // the publication that it undid
	Nothing     bool                  `json:"nothing,omitempty"`  // there was nothing to restore: only the fence rose
}

// last returns the latest write that was at least begun.
func (r register) last() write {
	switch {
	case r.Intent != nil:
		return *r.Intent
	case r.Written != nil:
		return *r.Written
	}
	return write{}
}

// knows reports whether the fingerprint is of something that castellan wrote or was about to write.
func (r register) knows(fingerprint string) bool {
	return fingerprint != "" && (r.Written != nil && r.Written.Fingerprint == fingerprint ||
		r.Intent != nil && r.Intent.Fingerprint == fingerprint)
}

// complete reports whether the last write is one of this epoch that changed something and ended.
func (r register) complete(epoch activities.Epoch) bool {
	return r.Intent == nil && r.Written != nil && r.Written.Epoch == epoch && !r.Written.Nothing
}

// ours returns the fingerprint that castellan last wrote, given what is there: it differs from that only
// if a write was cut short before its flip, or somebody else was there.
func (r register) ours(found public) string {
	if r.knows(found.fingerprint) || r.Intent != nil && found.fingerprint == r.From {
		return found.fingerprint
	}
	return r.last().Fingerprint
}

// admit is the fence: it refuses a write that is older than the last one, or another one of its epoch.
func (r register) admit(w write) error {
	last := r.last()
	if w.Epoch < last.Epoch {
		return activities.Errorf(activities.Fenced, "write epoch %d to %s: epoch %d has been here", w.Epoch, r.Delivery, last.Epoch)
	}
	if w.Epoch == last.Epoch && (w.Fingerprint != last.Fingerprint || w.Restores != last.Restores) {
		return activities.Errorf(activities.Fenced, "write epoch %d to %s: this epoch has written %s already",
			w.Epoch, r.Delivery, last.Fingerprint)
	}
	return nil
}

const (
	registerName = "fence.json"
	lockName     = "lock"
	keptName     = "previous"
	leavingName  = "leaving"
	recordName   = "record.json"
)

// readRegister reads the register below the state directory; a missing one is empty.
func readRegister(state *os.Root, delivery string) (register, error) {
	r := register{Delivery: delivery}
	f, ok, err := readFile(state, registerName)
	if err != nil {
		return r, classify(err, "read the fence of %s", delivery)
	}
	if !ok {
		return r, nil
	}
	if err := json.Unmarshal(f.data, &r); err != nil {
		return r, activities.Errorf(activities.Invalid, "read the fence of %s: %w", delivery, err)
	}
	if r.Delivery != delivery {
		return r, activities.Errorf(activities.Invalid,
			"state directory %q belongs to %s, not to %s: every delivery needs its own", state.Name(), r.Delivery, delivery)
	}
	return r, nil
}

// saveRegister replaces the register durably.
func saveRegister(state *os.Root, r register) error {
	slices.Sort(r.Owned)
	r.Owned = slices.Compact(r.Owned)
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = replaceFile(state, registerName, data)
	}
	if err != nil {
		return classify(err, "write the fence of %s", r.Delivery)
	}
	return nil
}

// replaceFile writes a file of the state directory by rename. Its temporary name is fixed, because the
// lock is held.
func replaceFile(state *os.Root, name string, data []byte) error {
	temporary := name + ".tmp"
	if err := state.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f := file{data: data, attributes: attributes{Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid()}}
	if err := writeFile(state, temporary, f); err != nil {
		return err
	}
	if err := state.Rename(temporary, name); err != nil {
		return err
	}
	return syncDirectory(state, filepath.Dir(name))
}
