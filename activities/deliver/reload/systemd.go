package reload

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"castellan.dev/activities"
)

// The actions of a unit.
const (
	actionReload  = "reload"
	actionRestart = "restart"
)

// SystemdConfig declares a reload or restart of a systemd unit, over the system bus. The bus is used
// rather than the program systemctl, because it says what became of the job and needs no child process.
type SystemdConfig struct {
	Unit    string        `yaml:"unit"`    // with its suffix, such as nginx.service; required
	Action  string        `yaml:"action"`  // reload (default) or restart; restart has to be asked for, because connections break
	Timeout time.Duration `yaml:"timeout"` // how long the job may take; default 90s, systemd's own
}

const defaultJobTimeout = 90 * time.Second

// unitName is what systemd.unit(5) allows in the name of a service.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,240}\.service$`)

// Check reports every problem of the configuration.
func (c SystemdConfig) Check(report func(field, value, want string)) {
	if !unitName.MatchString(c.Unit) {
		report("unit", c.Unit, "the name of a service with its suffix, such as nginx.service")
	}
	if c.Action != "" && c.Action != actionReload && c.Action != actionRestart {
		report("action", c.Action, "reload or restart")
	}
	if c.Timeout < 0 {
		report("timeout", c.Timeout.String(), "a positive duration such as 90s")
	}
}

// Systemd reloads or restarts a unit.
type Systemd struct {
	config SystemdConfig
	memory string
}

// NewSystemd returns the reloader of a checked configuration. Memory is the path of a file in which it
// remembers restarts; nobody else may write its directory.
func NewSystemd(config SystemdConfig, memory string) *Systemd {
	if config.Action == "" {
		config.Action = actionReload
	}
	if config.Timeout == 0 {
		config.Timeout = defaultJobTimeout
	}
	return &Systemd{config: config, memory: memory}
}

// restart is what is remembered: which run of the unit was there before the restart for a fingerprint.
type restart struct {
	Fingerprint string `json:"fingerprint"`
	Before      string `json:"before"` // the unit's invocation id; another one now means that it was restarted
	Done        bool   `json:"done"`
}

// Reload asks systemd to reload or restart the unit and waits for the job. A unit that is not running
// needs nothing: it will read what was delivered when it starts.
func (s *Systemd) Reload(ctx context.Context, fingerprint string) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	conn, err := systemd.NewSystemConnectionContext(ctx)
	if err != nil {
		return s.classify("connect to the system bus", err)
	}
	defer conn.Close()
	invocation, running, err := s.look(ctx, conn)
	if err != nil || !running {
		return err
	}
	if s.config.Action == actionReload {
		return s.job(ctx, conn, conn.ReloadUnitContext)
	}
	known, err := s.recall()
	if err != nil {
		return err
	}
	if known.Fingerprint == fingerprint && (known.Done || known.Before != invocation) {
		return nil
	}
	if err := s.remember(restart{Fingerprint: fingerprint, Before: invocation}); err != nil {
		return err
	}
	// A unit that was stopped in this moment by somebody stays stopped.
	if err := s.job(ctx, conn, conn.TryRestartUnitContext); err != nil {
		return err
	}
	return s.remember(restart{Fingerprint: fingerprint, Before: invocation, Done: true})
}

// look returns which run of the unit is there.
func (s *Systemd) look(ctx context.Context, conn *systemd.Conn) (invocation string, running bool, err error) {
	properties, err := conn.GetUnitPropertiesContext(ctx, s.config.Unit)
	if err != nil {
		return "", false, s.classify("look at", err)
	}
	if properties["LoadState"] != "loaded" {
		return "", false, activities.Errorf(activities.NotFound, "look at unit %q: systemd says %v", s.config.Unit, properties["LoadState"])
	}
	id, _ := properties["InvocationID"].([]byte)
	switch properties["ActiveState"] {
	case "active", "reloading", "activating", "refreshing":
		return hex.EncodeToString(id), true, nil
	}
	return "", false, nil
}

// job starts a job and waits for what becomes of it.
func (s *Systemd) job(ctx context.Context, conn *systemd.Conn, start func(context.Context, string, string, chan<- string) (int, error)) error {
	if err := conn.Subscribe(); err != nil {
		return s.classify("subscribe to the jobs of", err)
	}
	ended := make(chan string, 1)
	if _, err := start(ctx, s.config.Unit, "replace", ended); err != nil {
		return s.classify(s.config.Action, err)
	}
	select {
	case <-ctx.Done():
		return activities.Errorf(activities.Uncertain, "%s unit %q: the job has not ended: %w", s.config.Action, s.config.Unit, ctx.Err())
	case result := <-ended:
		return s.judge(result)
	}
}

// judge turns the result of a job into an error. A unit that fails to reload was asked and said no;
// every other result says that it was not asked.
func (s *Systemd) judge(result string) error {
	switch result {
	case "done":
		return nil
	case "failed":
		return activities.Errorf(activities.Failed, "%s unit %q: the job failed; its journal says why", s.config.Action, s.config.Unit)
	}
	return activities.Errorf(activities.Transient, "%s unit %q: the job ended as %q", s.config.Action, s.config.Unit, result)
}

func (s *Systemd) classify(act string, err error) error {
	kind := activities.Transient
	var refused dbus.Error
	if errors.As(err, &refused) {
		switch refused.Name {
		case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
			kind = activities.Denied
		case "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.LoadFailed":
			kind = activities.NotFound
		case "org.freedesktop.systemd1.JobTypeNotApplicable", "org.freedesktop.systemd1.UnitMasked",
			"org.freedesktop.DBus.Error.InvalidArgs", "org.freedesktop.systemd1.OnlyByDependency":
			kind = activities.Invalid
		}
	}
	return activities.Errorf(kind, "%s unit %q: %w", act, s.config.Unit, err)
}

func (s *Systemd) recall() (restart, error) {
	var known restart
	text, err := os.ReadFile(s.memory)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &known)
	}
	if err != nil {
		return known, activities.Errorf(activities.Transient, "recall restarts of unit %q: %w", s.config.Unit, err)
	}
	return known, nil
}

func (s *Systemd) remember(r restart) error {
	if err := s.save(r); err != nil {
		return activities.Errorf(activities.Transient, "remember the restart of unit %q: %w", s.config.Unit, err)
	}
	return nil
}

func (s *Systemd) save(r restart) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.memory), 0o700); err != nil {
		return err
	}
	temporary := fmt.Sprintf("%s.%d.tmp", s.memory, os.Getpid())
	handle, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer handle.Close()
	if _, err := handle.Write(text); err != nil {
		return err
	}
	if err := handle.Sync(); err != nil {
		return err
	}
	return os.Rename(temporary, s.memory)
}
