package files

import (
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The layouts.
const (
	Generation = "generation"
	Combined   = "combined"
	Plain      = "plain"
)

// The orders of a combined file.
const (
	CertFirst = "certFirst"
	KeyFirst  = "keyFirst"
)

// Config declares one delivery as files.
type Config struct {
	Layout string `yaml:"layout"` // generation (default), combined, or plain (which is not atomic)

	Directory   string `yaml:"directory"`   // generation: the served directory, absolute; created if only it is missing
	Certificate string `yaml:"certificate"` // generation: file name, default tls.crt; plain: absolute path
	Key         string `yaml:"key"`         // generation: file name, default tls.key; plain: absolute path
	Bundle      string `yaml:"bundle"`      // generation: file name, default ca.crt; plain: absolute path, empty: no bundle

	Path          string `yaml:"path"`          // combined: the file, absolute
	Order         string `yaml:"order"`         // combined: certFirst (default) or keyFirst
	IncludeBundle bool   `yaml:"includeBundle"` // combined: append the bundle; default false

	NonAtomic bool `yaml:"nonAtomic"` // plain: says that a reader seeing a mismatched pair is accepted

	Owner   string `yaml:"owner"`   // user name or id; default: kept from what exists, else the worker's
	Group   string `yaml:"group"`   // group name or id; default: kept from what exists, else the worker's
	Mode    string `yaml:"mode"`    // octal, of certificate and bundle; default: kept, else 0644
	KeyMode string `yaml:"keyMode"` // octal, of key and combined file; default: kept without the rights of others, else 0600

	State    string        `yaml:"state"`    // state directory, absolute, outside the served one; created 0700; default: one below the worker's own
	LockWait time.Duration `yaml:"lockWait"` // how long a write waits for another one; default 10s
}

const defaultLockWait = 10 * time.Second

// withDefaults returns the configuration with its defaults filled in.
func (c Config) withDefaults() Config {
	if c.Layout == "" {
		c.Layout = Generation
	}
	if c.Layout == Generation {
		c.Certificate = or(c.Certificate, "tls.crt")
		c.Key = or(c.Key, "tls.key")
		c.Bundle = or(c.Bundle, "ca.crt")
	}
	if c.Layout == Combined {
		c.Order = or(c.Order, CertFirst)
	}
	if c.LockWait == 0 {
		c.LockWait = defaultLockWait
	}
	return c
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// Check reports every problem of the configuration.
func (c Config) Check(report func(field, value, want string)) {
	d := c.withDefaults()
	switch d.Layout {
	case Generation:
		d.checkGeneration(report)
	case Combined:
		d.checkCombined(report)
	case Plain:
		d.checkPlain(report)
	default:
		report("layout", c.Layout, "generation, combined or plain")
	}
	if c.NonAtomic && d.Layout != Plain {
		report("nonAtomic", "true", "left out: the layout "+d.Layout+" is atomic")
	}
	d.checkState(report)
	checkMode(report, "mode", c.Mode, 0o022, "an octal mode such as 0644 that only the owner may write")
	checkMode(report, "keyMode", c.KeyMode, 0o027, "an octal mode such as 0640 that gives nothing to others and lets only the owner write")
	if c.LockWait < 0 {
		report("lockWait", c.LockWait.String(), "a positive duration such as 10s")
	}
}

func (c Config) checkGeneration(report func(field, value, want string)) {
	checkPath(report, "directory", c.Directory)
	names := map[string]string{}
	for field, name := range map[string]string{"certificate": c.Certificate, "key": c.Key, "bundle": c.Bundle} {
		if name != filepath.Base(name) || name == "." || name == ".." || name == "/" {
			report(field, name, "a file name without a slash, such as tls.crt")
		}
		names[name] = field
	}
	if len(names) < 3 {
		report("certificate", c.Certificate, "three different names for certificate, key and bundle")
	}
	c.refuse(report, map[string]string{"path": c.Path, "order": c.Order})
}

func (c Config) checkCombined(report func(field, value, want string)) {
	checkPath(report, "path", c.Path)
	if c.Order != CertFirst && c.Order != KeyFirst {
		report("order", c.Order, "certFirst or keyFirst")
	}
	c.refuse(report, map[string]string{
		"directory": c.Directory, "certificate": c.Certificate, "key": c.Key, "bundle": c.Bundle,
	})
}

func (c Config) checkPlain(report func(field, value, want string)) {
	checkPath(report, "certificate", c.Certificate)
	checkPath(report, "key", c.Key)
	if c.Bundle != "" {
		checkPath(report, "bundle", c.Bundle)
	}
	if c.Certificate == c.Key || c.Bundle != "" && (c.Bundle == c.Key || c.Bundle == c.Certificate) {
		report("key", c.Key, "different paths for certificate, key and bundle")
	}
	if !c.NonAtomic {
		report("nonAtomic", "false",
			"true, which accepts that a reader may meet a certificate with another one's key, because two paths "+
				"cannot change together; or the layout generation or combined, which change in one step")
	}
	c.refuse(report, map[string]string{"directory": c.Directory, "path": c.Path, "order": c.Order})
}

// refuse reports fields that belong to another layout: ignoring them would hide a mistake.
func (c Config) refuse(report func(field, value, want string), fields map[string]string) {
	for field, value := range fields {
		if value != "" {
			report(field, value, "left out: it does not belong to the layout "+c.Layout)
		}
	}
	if c.IncludeBundle && c.Layout != Combined {
		report("includeBundle", "true", "left out: it does not belong to the layout "+c.Layout)
	}
}

func (c Config) checkState(report func(field, value, want string)) {
	if c.State == "" {
		return
	}
	checkPath(report, "state", c.State)
	for _, served := range c.directories() {
		if served != "" && within(served, c.State) && (c.Layout == Generation || filepath.Clean(served) == filepath.Clean(c.State)) {
			report("state", c.State, "a directory outside the served directory "+served+
				", because it holds the previous key")
		}
	}
}

// directories returns the directories in which something is served.
func (c Config) directories() []string {
	var all []string
	switch c.Layout {
	case Generation:
		all = []string{c.Directory}
	case Combined:
		all = []string{filepath.Dir(c.Path)}
	case Plain:
		all = []string{filepath.Dir(c.Certificate), filepath.Dir(c.Key)}
		if c.Bundle != "" {
			all = append(all, filepath.Dir(c.Bundle))
		}
	}
	return all
}

// within reports whether path is directory or lies below it.
func within(directory, path string) bool {
	relative, err := filepath.Rel(directory, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}

func checkPath(report func(field, value, want string), field, path string) {
	if !filepath.IsAbs(path) || path != filepath.Clean(path) || path == "/" {
		report(field, path, "a clean absolute path")
	}
}

func checkMode(report func(field, value, want string), field, mode string, forbidden fs.FileMode, want string) {
	if mode == "" {
		return
	}
	bits, err := parseMode(mode)
	if err != nil || bits&forbidden != 0 || bits&0o400 == 0 {
		report(field, mode, want)
	}
}

func parseMode(mode string) (fs.FileMode, error) {
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return 0, err
	}
	if bits > 0o777 {
		return 0, strconv.ErrRange
	}
	return fs.FileMode(bits), nil
}
