package files

import (
	"context"
	"os"
	"os/user"
	"strconv"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
)

// Deliverer delivers to files. It implements deliver.Deliverer; any number of them, in any number of
// processes of one host, may work on the same delivery.
type Deliverer struct {
	config Config
	layout layout
	now    func() time.Time
}

// New returns the deliverer of a checked configuration. State is the state directory to use when the
// configuration names none; it must be the same after a restart, and of this delivery alone.
func New(config Config, state string, now func() time.Time) *Deliverer {
	config = config.withDefaults()
	config.State = or(config.State, state)
	return &Deliverer{config: config, layout: config.layout(), now: now}
}

// name says what is served, for the register and for errors.
func (d *Deliverer) name() string {
	switch d.config.Layout {
	case Combined:
		return d.config.Layout + " " + d.config.Path
	case Plain:
		return d.config.Layout + " " + d.config.Certificate
	}
	return d.config.Layout + " " + d.config.Directory
}

// Observe says what consumers can read now. A served directory that does not exist holds nothing.
func (d *Deliverer) Observe(ctx context.Context) (deliver.Visible, error) {
	t, err := openTree(d.config.directories(), false)
	if err != nil {
		return deliver.Visible{}, err
	}
	defer t.close()
	// Without the lock a write can happen between the two readings. When the register did not change
	// around the reading of the content, they belong together.
	before, err := d.peek()
	for tries := 0; err == nil; tries++ {
		if err := ctx.Err(); err != nil {
			return deliver.Visible{}, activities.Errorf(activities.Transient, "observe %s: %w", d.name(), err)
		}
		var c content
		if c, err = d.layout.read(t); err != nil {
			break
		}
		var after register
		if after, err = d.peek(); err != nil {
			break
		}
		if tries == 8 || after.last() == before.last() && (after.Intent == nil) == (before.Intent == nil) {
			return visible(c, after), nil
		}
		before = after
	}
	return deliver.Visible{}, err
}

// peek reads the register without making a state directory.
func (d *Deliverer) peek() (register, error) {
	state, err := os.OpenRoot(d.config.State)
	if os.IsNotExist(err) {
		return register{Delivery: d.name()}, nil
	}
	if err != nil {
		return register{}, classify(err, "open state directory %q", d.config.State)
	}
	defer state.Close()
	return readRegister(state, d.name())
}

// visible describes content in the words of the contract.
func visible(c content, r register) deliver.Visible {
	p := c.inspect()
	v := deliver.Visible{Fingerprint: p.fingerprint, Chain: p.chain, Epoch: r.last().Epoch, NotAfter: p.notAfter}
	switch {
	case c.empty():
		// Nothing is foreign only where something of ours was proven to be.
		v.Foreign = r.Written != nil
	case r.Intent != nil:
		// A write was begun and not seen to end: both sides of it, and a half of each, are ours.
		v.Foreign = !r.knows(p.fingerprint) && p.fingerprint != r.From
	default:
		v.Foreign = !r.knows(p.fingerprint) || !p.paired
	}
	return v
}

// Publish makes the material visible in one step (see the package comment for the layout plain) and
// keeps what was there.
func (d *Deliverer) Publish(ctx context.Context, material deliver.Material, expected string) (deliver.Visible, error) {
	want, err := d.config.render(material)
	if err != nil {
		return deliver.Visible{}, err
	}
	s, err := d.begin(ctx, true)
	if err != nil {
		return deliver.Visible{}, err
	}
	defer s.end()
	w := write{Epoch: material.Epoch, Fingerprint: material.Fingerprint, Rotation: material.Rotation}
	if err := s.register.admit(w); err != nil {
		return deliver.Visible{}, err
	}
	found := s.content.inspect()
	if found.fingerprint != material.Fingerprint {
		if err := s.precondition(found, expected); err != nil {
			return deliver.Visible{}, err
		}
		if err := s.keep(material.Epoch, found); err != nil {
			return deliver.Visible{}, err
		}
	}
	if err := s.attributes(&want, s.content); err != nil {
		return deliver.Visible{}, err
	}
	return s.write(ctx, w, want)
}

// Restore makes what was visible before the publication of epoch `of` visible again. When nothing was
// kept, it still raises the fence, so that a late publication cannot come after the rollback.
func (d *Deliverer) Restore(ctx context.Context, of, under activities.Epoch) (deliver.Visible, error) {
	if under <= of {
		return deliver.Visible{}, activities.Errorf(activities.Invalid, "restore %s: epoch %d is not newer than %d", d.name(), under, of)
	}
	s, err := d.begin(ctx, true)
	if err != nil {
		return deliver.Visible{}, err
	}
	defer s.end()
	last := s.register.last()
	if under < last.Epoch || under == last.Epoch && last.Restores != of {
		return deliver.Visible{}, activities.Errorf(activities.Fenced, "restore %s under epoch %d: epoch %d has been here", d.name(), under, last.Epoch)
	}
	found := s.content.inspect()
	if s.register.complete(under) && last.Fingerprint == found.fingerprint && found.paired {
		return visible(s.content, s.register), nil
	}
	record, previous, err := s.kept(of)
	if activities.KindOf(err) == activities.NotFound && err != nil {
		if fenceErr := s.raise(write{Epoch: under, Fingerprint: s.register.ours(found), Restores: of, Nothing: true}); fenceErr != nil {
			return deliver.Visible{}, fenceErr
		}
		return deliver.Visible{}, err
	}
	if err != nil {
		return deliver.Visible{}, err
	}
	if !s.content.empty() && !s.register.knows(found.fingerprint) && found.fingerprint != record.Fingerprint {
		return deliver.Visible{}, activities.Errorf(activities.Conflict, "restore %s: it holds %s, which castellan did not put there",
			d.name(), orNothing(found.fingerprint))
	}
	if found.fingerprint != record.Fingerprint && !d.now().Before(record.NotAfter) {
		return deliver.Visible{}, activities.Errorf(activities.Failed, "restore %s: what was there before, %s, expired at %s",
			d.name(), record.Fingerprint, record.NotAfter.UTC().Format(time.RFC3339))
	}
	return s.write(ctx, write{Epoch: under, Fingerprint: record.Fingerprint, Restores: of}, previous)
}

// Retire erases what was kept before the publication of epoch, and what older publications left.
func (d *Deliverer) Retire(ctx context.Context, epoch activities.Epoch) error {
	if _, err := os.Lstat(d.config.State); os.IsNotExist(err) {
		return nil
	}
	s, err := d.begin(ctx, false)
	if err != nil {
		return err
	}
	defer s.end()
	// begin has moved away what a crash may have left in the served directory; it goes now, too.
	if err := s.eraseLeaving(); err != nil {
		return err
	}
	return s.forget(epoch)
}

// attributes gives every file the owner and mode that are configured, or that its predecessor has.
func (s *session) attributes(want *content, existing content) error {
	c := s.config
	want.directory = existing.directory
	if want.directory == nil {
		want.directory = &attributes{Mode: 0o755, UID: os.Geteuid(), GID: os.Getegid()}
	}
	// Material without a bundle says nothing about it: the one that is there stays.
	if bundle, ok := existing.files[bundleSlot]; ok && want.files[bundleSlot].data == nil {
		want.files[bundleSlot] = bundle
	}
	for name, f := range want.files {
		f.attributes = attributes{Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()}
		if name.secret() {
			f.Mode = 0o600
		}
		if before, ok := existing.files[name]; ok {
			f.attributes = before.attributes
		}
		configured := c.Mode
		if name.secret() {
			configured = c.KeyMode
			f.Mode &^= 0o007
		}
		if configured != "" {
			mode, err := parseMode(configured)
			if err != nil {
				return activities.Errorf(activities.Invalid, "deliver %s: mode %q: %w", s.name(), configured, err)
			}
			f.Mode = mode
		}
		uid, gid, err := c.ids()
		if err != nil {
			return err
		}
		if uid >= 0 {
			f.UID = uid
		}
		if gid >= 0 {
			f.GID = gid
		}
		want.files[name] = f
	}
	return nil
}

// ids resolves the configured owner and group; -1 stands for none.
func (c Config) ids() (uid, gid int, err error) {
	uid, gid = -1, -1
	if c.Owner != "" {
		if uid, err = strconv.Atoi(c.Owner); err != nil {
			found, lookupErr := user.Lookup(c.Owner)
			if lookupErr != nil {
				return -1, -1, activities.Errorf(activities.Invalid, "owner %q: %w", c.Owner, lookupErr)
			}
			uid, _ = strconv.Atoi(found.Uid)
		}
	}
	if c.Group != "" {
		if gid, err = strconv.Atoi(c.Group); err != nil {
			found, lookupErr := user.LookupGroup(c.Group)
			if lookupErr != nil {
				return -1, -1, activities.Errorf(activities.Invalid, "group %q: %w", c.Group, lookupErr)
			}
			gid, _ = strconv.Atoi(found.Gid)
		}
	}
	return uid, gid, nil
}

func orNothing(fingerprint string) string {
	if fingerprint == "" {
		return "nothing that is a certificate"
	}
	return fingerprint
}
