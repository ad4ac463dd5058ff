package files

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
)

// session is one change of a delivery, under its lock.
type session struct {
	*Deliverer
	state    *os.Root
	tree     tree
	register register
	content  content // what consumers could read when the session began
	release  func()
}

// begin takes the lock, looks at everything, and removes what a crashed write of ours left behind. The
// served directories must exist only for a session that writes to them.
func (d *Deliverer) begin(ctx context.Context, writes bool) (*session, error) {
	state, err := openState(d.config.State)
	if err != nil {
		return nil, err
	}
	s := &session{Deliverer: d, state: state}
	if s.release, err = lock(ctx, state, d.config.LockWait); err != nil {
		s.end()
		return nil, err
	}
	if s.register, err = readRegister(state, d.name()); err == nil {
		if err = d.apart(); err == nil {
			s.tree, err = openTree(d.config.directories(), writes && d.config.Layout == Generation)
		}
	}
	if err == nil && writes {
		err = s.missing()
	}
	if err == nil {
		s.content, err = d.layout.read(s.tree)
	}
	if err == nil {
		err = s.tidy()
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// apart refuses a state directory that links have brought below the served one.
func (d *Deliverer) apart() error {
	if d.config.Layout != Generation {
		return nil
	}
	state, err := filepath.EvalSymlinks(d.config.State)
	if err != nil {
		return classify(err, "resolve %q", d.config.State)
	}
	if served, err := filepath.EvalSymlinks(d.config.Directory); err == nil && within(served, state) {
		return activities.Errorf(activities.Invalid, "state directory %q lies below the served directory %q", state, served)
	}
	return nil
}

// missing refuses to work without one of the served directories.
func (s *session) missing() error {
	for _, directory := range s.config.directories() {
		if s.tree[directory] == nil {
			return activities.Errorf(activities.NotFound, "served directory %q does not exist: create it", directory)
		}
	}
	return nil
}

func (s *session) end() {
	s.tree.close()
	if s.release != nil {
		s.release()
	}
	_ = s.state.Close()
}

// precondition refuses to overwrite what the caller has not seen.
func (s *session) precondition(found public, expected string) error {
	if found.fingerprint == "" && !s.content.empty() {
		return activities.Errorf(activities.Conflict,
			"publish to %s: it holds something that is no certificate; move it aside, castellan does not remove it", s.name())
	}
	if found.fingerprint != expected {
		return activities.Errorf(activities.Conflict, "publish to %s: it holds %s, not %s as observed before",
			s.name(), orNothing(found.fingerprint), orNothing(expected))
	}
	return nil
}

// write makes the content visible between two writings of the register. What it finds done is not done
// again.
func (s *session) write(ctx context.Context, w write, want content) (deliver.Visible, error) {
	if s.content.equal(want) {
		if err := s.raise(w); err != nil {
			return deliver.Visible{}, err
		}
		return visible(s.content, s.register), nil
	}
	names, err := s.layout.names(s.tree, w)
	if err != nil {
		return deliver.Visible{}, err
	}
	if err := ctx.Err(); err != nil {
		return deliver.Visible{}, activities.Errorf(activities.Transient, "write to %s: %w", s.name(), err)
	}
	s.register.From = s.content.inspect().fingerprint
	s.register.Intent = &w
	s.register.Owned = append(s.register.Owned, names...)
	if err := saveRegister(s.state, s.register); err != nil {
		return deliver.Visible{}, err
	}
	if err := s.layout.put(s.tree, names, want); err != nil {
		return deliver.Visible{}, err
	}
	if s.content, err = s.layout.read(s.tree); err != nil {
		return deliver.Visible{}, err
	}
	if found := s.content.inspect(); found.fingerprint != w.Fingerprint {
		return deliver.Visible{}, activities.Errorf(activities.Conflict, "write to %s: %s was put there in the same moment",
			s.name(), orNothing(found.fingerprint))
	}
	if err := s.raise(w); err != nil {
		return deliver.Visible{}, err
	}
	if err := s.tidy(); err != nil {
		return deliver.Visible{}, err
	}
	return visible(s.content, s.register), nil
}

// raise records a write as complete.
func (s *session) raise(w write) error {
	if s.register.Intent == nil && s.register.Written != nil && *s.register.Written == w {
		return nil
	}
	s.register.Written, s.register.Intent, s.register.From = &w, nil, ""
	return saveRegister(s.state, s.register)
}

// tidy takes what castellan made and nobody serves any more out of the served directories. Directories
// move to the state directory, so that a program that has one open can read on, and are erased by Retire.
func (s *session) tidy() error {
	var owned []string
	for _, path := range s.register.Owned {
		root, name, ok := s.tree.at(path)
		if !ok {
			owned = append(owned, path) // its directory is not there now
			continue
		}
		if s.content.place != "" && filepath.Clean(s.content.place) == name {
			owned = append(owned, path)
			continue
		}
		if err := s.discard(root, name); err != nil {
			return classify(err, "clear away %q", path)
		}
	}
	if slices.Equal(owned, s.register.Owned) {
		return nil
	}
	s.register.Owned = owned
	return saveRegister(s.state, s.register)
}

// discard removes one of our own names from a served directory.
func (s *session) discard(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return erase(root, name)
	}
	if s.moveAway(root, name) == nil {
		return nil
	}
	return eraseAll(root, name) // the state directory is on another file system
}

func (s *session) moveAway(root *os.Root, name string) error {
	if err := s.state.Mkdir(leavingName, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	from, err := root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := s.state.Open(leavingName)
	if err != nil {
		return err
	}
	defer to.Close()
	base := filepath.Base(name)
	target, err := unique(s.state, leavingName, base)
	if err != nil {
		return err
	}
	if err := unix.Renameat(int(from.Fd()), base, int(to.Fd()), target); err != nil {
		return err
	}
	return errors.Join(to.Sync(), from.Sync())
}

func (s *session) eraseLeaving() error {
	if err := eraseAll(s.state, leavingName); err != nil {
		return classify(err, "erase %q", filepath.Join(s.state.Name(), leavingName))
	}
	return nil
}
