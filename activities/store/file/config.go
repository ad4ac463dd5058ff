package file

import (
	"path/filepath"
	"strings"
)

// Config says where the store is and which keyring encrypts it.
type Config struct {
	Dir     string `yaml:"dir"`     // absolute path; made with mode 0700 when it is absent
	KeyFile string `yaml:"keyFile"` // absolute path of the keyring's file, outside Dir
}

// Check reports every problem of the configuration as field, value and expectation.
func (c Config) Check(report func(field, value, want string)) {
	if !filepath.IsAbs(c.Dir) {
		report("dir", c.Dir, "an absolute path")
	}
	if !filepath.IsAbs(c.KeyFile) {
		report("keyFile", c.KeyFile, "an absolute path")
	} else if filepath.IsAbs(c.Dir) && within(c.KeyFile, c.Dir) {
		report("keyFile", c.KeyFile, "a path outside dir, so that a copy of the store does not carry its key")
	}
}

// within reports whether path lies below dir.
func within(path, dir string) bool {
	relative, err := filepath.Rel(dir, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}
