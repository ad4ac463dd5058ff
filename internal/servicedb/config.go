package servicedb

import (
	"fmt"
	"strings"
)

// The kinds of database.
const (
	KindSQLite   = "sqlite"
	KindPostgres = "postgres"
)

// Config says which database to open.
type Config struct {
	// Kind is sqlite (the default) or postgres.
	Kind string `yaml:"kind"`
	// Path is the SQLite file. It is made with mode 0600 when it does not exist.
	Path string `yaml:"path"`
	// DSNFile names a file that holds the PostgreSQL connection string. It is read again for every new
	// connection, so a rotated password needs no restart. A database on another host must be
	// connected with sslmode=verify-full.
	DSNFile string `yaml:"dsnFile"`
}

// Check reports every problem of the configuration as field, value and expectation.
func (c Config) Check(report func(field, value, want string)) {
	switch c.kind() {
	case KindSQLite:
		if c.Path == "" {
			report("path", c.Path, "the path of the SQLite file")
		}
		if strings.ContainsAny(c.Path, "?#\x00") {
			report("path", c.Path, "a path without '?', '#' and NUL")
		}
		if c.DSNFile != "" {
			report("dsnFile", c.DSNFile, "nothing: dsnFile belongs to kind postgres")
		}
	case KindPostgres:
		if c.DSNFile == "" {
			report("dsnFile", c.DSNFile, "a file that holds the connection string")
		}
		if c.Path != "" {
			report("path", c.Path, "nothing: path belongs to kind sqlite")
		}
	default:
		report("kind", c.Kind, "sqlite or postgres")
	}
}

func (c Config) kind() string {
	if c.Kind == "" {
		return KindSQLite
	}
	return c.Kind
}

// problem returns the first problem as an error.
func (c Config) problem() (err error) {
	c.Check(func(field, value, want string) {
		if err == nil {
			err = fmt.Errorf("%s is %q, want %s", field, value, want)
		}
	})
	return err
}
