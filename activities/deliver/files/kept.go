package files

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"castellan.dev/activities"
)

// kept describes what was there before a publication.
type kept struct {
	Of          activities.Epoch    `json:"of"`
	Fingerprint string              `json:"fingerprint"`
	NotAfter    time.Time           `json:"not_after"`
	Files       map[slot]attributes `json:"files"`
	Directory   *attributes         `json:"directory,omitempty"`
}

func keptPath(epoch activities.Epoch, name string) string {
	return filepath.Join(keptName, strconv.FormatUint(uint64(epoch), 10), name)
}

// keep stores what is there for Restore, readable by this process alone. Its record comes last: without
// it nothing counts as kept. What an earlier attempt kept stays when it is of the same certificate,
// because that attempt may already have replaced a part of what is served.
func (s *session) keep(epoch activities.Epoch, found public) error {
	if s.content.empty() {
		return nil
	}
	if record, _, err := s.kept(epoch); err == nil && record.Fingerprint == found.fingerprint {
		return nil
	}
	if err := s.store(epoch, found); err != nil {
		return classify(err, "keep what %s holds before epoch %d", s.name(), epoch)
	}
	return nil
}

func (s *session) store(epoch activities.Epoch, found public) error {
	directory := filepath.Dir(keptPath(epoch, recordName))
	if err := eraseAll(s.state, directory); err != nil {
		return err
	}
	if err := s.state.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	record := kept{Of: epoch, Fingerprint: found.fingerprint, NotAfter: found.notAfter,
		Files: map[slot]attributes{}, Directory: s.content.directory}
	for name, f := range s.content.files {
		record.Files[name] = f.attributes
		own := attributes{Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid()}
		if err := writeFile(s.state, keptPath(epoch, string(name)), file{data: f.data, attributes: own}); err != nil {
			return err
		}
	}
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	for _, path := range []string{directory, keptName, "."} {
		if err := syncDirectory(s.state, path); err != nil {
			return err
		}
	}
	return replaceFile(s.state, keptPath(epoch, recordName), data)
}

// kept returns what was there before the publication of epoch.
func (s *session) kept(epoch activities.Epoch) (kept, content, error) {
	var record kept
	f, ok, err := readFile(s.state, keptPath(epoch, recordName))
	if err != nil {
		return record, content{}, classify(err, "read what was kept before epoch %d", epoch)
	}
	if !ok {
		return record, content{}, activities.Errorf(activities.NotFound, "nothing was kept of %s before epoch %d", s.name(), epoch)
	}
	if err := json.Unmarshal(f.data, &record); err != nil {
		return record, content{}, activities.Errorf(activities.Invalid, "read what was kept before epoch %d: %w", epoch, err)
	}
	c := content{files: map[slot]file{}, directory: record.Directory}
	for name, own := range record.Files {
		f, ok, err := readFile(s.state, keptPath(epoch, string(name)))
		if err != nil {
			return record, content{}, classify(err, "read what was kept before epoch %d", epoch)
		}
		if !ok {
			return record, content{}, activities.Errorf(activities.NotFound, "the %s that was kept of %s before epoch %d is gone", name, s.name(), epoch)
		}
		if name.secret() {
			own.Mode &^= 0o007 // however it was found
		}
		c.files[name] = file{data: f.data, attributes: own}
	}
	return record, c, nil
}

// forget erases what was kept before the publication of epoch and before older ones.
func (s *session) forget(epoch activities.Epoch) error {
	names, err := list(s.state, keptName)
	if err != nil {
		return classify(err, "list what was kept of %s", s.name())
	}
	for _, name := range names {
		number, err := strconv.ParseUint(name, 10, 64)
		if err != nil || activities.Epoch(number) > epoch {
			continue
		}
		if err := eraseAll(s.state, filepath.Join(keptName, name)); err != nil {
			return classify(err, "erase what was kept of %s before epoch %d", s.name(), number)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if err := syncDirectory(s.state, keptName); err != nil {
		return classify(err, "sync what was kept of %s", s.name())
	}
	return nil
}
