package refusal

import (
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// Config says which peer to ask, and how.
type Config struct {
	Address    string        `yaml:"address"`    // host:port of a server that demands client certificates; required
	ServerName string        `yaml:"serverName"` // SNI and the name to verify; default: the host in address
	Roots      string        `yaml:"roots"`      // file with the trust anchors of the server's certificate; required
	Path       string        `yaml:"path"`       // what to request over HTTP once connected; default: /
	Timeout    time.Duration `yaml:"timeout"`    // of one connection; default 5s
}

// Check reports every problem of the configuration.
func (c Config) Check(report func(field, value, want string)) {
	if host, port, err := net.SplitHostPort(c.Address); err != nil || host == "" {
		report("address", c.Address, "host:port of a server that demands client certificates")
	} else if number, err := strconv.Atoi(port); err != nil || number < 1 || number > 65535 {
		report("address", c.Address, "a port from 1 to 65535")
	}
	if c.Roots == "" || !filepath.IsAbs(c.Roots) {
		report("roots", c.Roots, "the absolute path of a PEM file")
	}
	if c.Path != "" && c.Path[0] != '/' {
		report("path", c.Path, "a path that begins with /")
	}
	if c.Timeout < 0 {
		report("timeout", c.Timeout.String(), "a positive duration")
	}
}
