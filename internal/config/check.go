package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"castellan.dev/internal/policy"
)

// checks finds what decoding cannot: values that are well-formed and wrong.
type checks struct {
	config  *Config
	decoder *decoder
}

// targetName is what names in the configuration look like. A target's name is in clear in workflow
// ids and file names.
var targetName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)

// report adds a problem unless the field has one already.
func (c *checks) report(path, value, want string) {
	if !c.decoder.reported(path) {
		c.decoder.add(path, c.decoder.line(path), value, want)
	}
}

// all runs every check.
func (c *checks) all() {
	config := c.config
	c.choice("environment", string(config.Environment), string(Development), string(Production))
	c.engine()
	c.api()
	c.names("issuers", slices.Collect(maps.Keys(config.Issuers)))
	c.names("policies", slices.Collect(maps.Keys(config.Policies)))
	c.names("blackouts", slices.Collect(maps.Keys(config.Blackouts)))
	c.names("certificates", slices.Collect(maps.Keys(config.Certificates)))
	c.names("schedules", slices.Collect(maps.Keys(config.Schedules)))
	c.hosts()
	c.section("store", config.Store)
	c.section("database", config.Database)
	for name, issuer := range config.Issuers {
		c.section(join("issuers", name), issuer)
	}
	for name, each := range config.Policies {
		c.policy(join("policies", name), each)
	}
	for name, each := range config.Blackouts {
		c.blackout(join("blackouts", name), each)
	}
	for name, each := range config.Certificates {
		c.certificate(join("certificates", name), name, each)
	}
	for name, each := range config.Schedules {
		c.schedule(join("schedules", name), each)
	}
	c.groups()
	c.destinations()
}

// choice checks a field with a fixed set of values; empty means the default.
func (c *checks) choice(path, value string, values ...string) {
	if value != "" && !slices.Contains(values, value) {
		c.report(path, value, oneOf(value, values))
	}
}

// required checks that a field is given.
func (c *checks) required(path, value, want string) {
	if value == "" {
		c.report(path, "", want)
	}
}

// names checks keys that people choose.
func (c *checks) names(path string, names []string) {
	for _, name := range names {
		if !targetName.MatchString(name) {
			c.report(join(path, name), name, "a name of at most 63 lower-case letters, digits, '-' and '.'")
		}
	}
}

// hosts checks the list of hosts.
func (c *checks) hosts() {
	for i, host := range c.config.Hosts {
		path := fmt.Sprintf("hosts[%d]", i)
		switch {
		case !targetName.MatchString(host):
			c.report(path, host, "a name of at most 63 lower-case letters, digits, '-' and '.'")
		case slices.Index(c.config.Hosts, host) < i:
			c.report(path, host, "each host once")
		}
	}
}

// section checks that a section that is there has a kind.
func (c *checks) section(path string, section Section) {
	if section.IsZero() {
		if c.decoder.lines[path] != 0 {
			c.report(path, "", "a mapping with the field kind")
		}
		return
	}
	c.required(join(path, "kind"), section.Kind(), "a kind")
}

// address checks host:port; empty means the default.
func (c *checks) address(path, value string) {
	if value == "" {
		return
	}
	host, port, err := net.SplitHostPort(value)
	number, atoi := strconv.Atoi(port)
	if err != nil || atoi != nil || number < 0 || number > 65535 || strings.ContainsAny(host, "/@ ") {
		c.report(path, value, "host:port such as 127.0.0.1:7233")
	}
}

// https checks an https URL; empty means the default.
func (c *checks) https(path, value string) {
	if value == "" {
		return
	}
	if u, err := url.Parse(value); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		c.report(path, value, "an address such as https://castellan.example.com")
	}
}

// engine checks engine and codec.
func (c *checks) engine() {
	engine, tls := c.config.Engine, c.config.Engine.TLS
	c.address("engine.address", engine.Address)
	if tls.IdentityFile != "" && (tls.CertFile != "" || tls.KeyFile != "") {
		c.report("engine.tls.identityFile", tls.IdentityFile, "either identityFile or certFile and keyFile")
	}
	if tls.CertFile != "" && tls.KeyFile == "" {
		c.report("engine.tls.keyFile", "", "the key that belongs to certFile")
	}
	if tls.KeyFile != "" && tls.CertFile == "" {
		c.report("engine.tls.certFile", "", "the certificate that belongs to keyFile")
	}
	if vault := c.config.Codec.Vault; vault != nil {
		c.required("codec.vault.address", vault.Address, "an address such as https://vault.example.com:8200")
		c.https("codec.vault.address", vault.Address)
		c.required("codec.vault.key", vault.Key, "the name of a transit key")
		c.required("codec.vault.tokenFile", vault.TokenFile, "a file with a Vault token")
		c.required("codec.keyringFile", c.config.Codec.KeyringFile, "the keyring that Vault unwraps")
	}
}

// api checks api, ledger and telemetry.
func (c *checks) api() {
	config := c.config
	c.address("api.listen", config.API.Listen)
	c.https("api.publicURL", config.API.PublicURL)
	c.https("ledger.url", config.Ledger.URL)
	c.address("telemetry.metrics.listen", config.Telemetry.Metrics.Listen)
	c.address("telemetry.traces.endpoint", config.Telemetry.Traces.Endpoint)
	c.choice("telemetry.log.format", config.Telemetry.Log.Format, "text", "json")
	c.choice("telemetry.log.level", config.Telemetry.Log.Level, "debug", "info", "warn", "error")
	if c.config.Has("ledger.checkpoints.every") && config.Ledger.Checkpoints.Every < time.Second {
		c.report("ledger.checkpoints.every", config.Ledger.Checkpoints.Every.String(), "at least 1s")
	}
	if c.config.Has("api.login.session") && config.API.Login.Session < time.Minute {
		c.report("api.login.session", config.API.Login.Session.String(), "at least 1m")
	}
}

// schedule checks one schedule. The values must fit together, whichever of them the file gives.
func (c *checks) schedule(path string, schedule Schedule) {
	c.choice(join(path, "work"), schedule.Work, "sweep")
	c.choice(join(path, "overlap"), schedule.Overlap, "skip", "buffer-one")
	every := schedule.Every
	if every == 0 {
		every = time.Minute
	}
	if every < time.Second {
		c.report(join(path, "every"), policy.FormatDuration(schedule.Every), "at least 1s")
		return
	}
	if c.config.Has(join(path, "jitter")) && (schedule.Jitter < every/10 || schedule.Jitter > every) {
		c.report(join(path, "jitter"), policy.FormatDuration(schedule.Jitter),
			fmt.Sprintf("between a tenth of the interval and the interval: %s to %s", every/10, every))
	}
	if c.config.Has(join(path, "catchUp")) && (schedule.CatchUp < 10*time.Second || schedule.CatchUp > max(every, 10*time.Second)) {
		c.report(join(path, "catchUp"), policy.FormatDuration(schedule.CatchUp),
			fmt.Sprintf("at least 10s and at most the interval: %s", max(every, 10*time.Second)))
	}
	if c.config.Has(join(path, "succeedWithin")) && schedule.SucceedWithin < 2*every {
		c.report(join(path, "succeedWithin"), policy.FormatDuration(schedule.SucceedWithin),
			fmt.Sprintf("at least two intervals: %s", 2*every))
	}
}

// destinations checks that no two secrets-bearing files of castellan's own are the same.
func (c *checks) destinations() {
	used := map[string]string{}
	for _, file := range []struct{ path, value string }{
		{"engine.apiKeyFile", c.config.Engine.APIKeyFile},
		{"codec.keyringFile", c.config.Codec.KeyringFile},
		{"ledger.keyFile", c.config.Ledger.KeyFile},
		{"api.login.usersFile", c.config.API.Login.UsersFile},
	} {
		if file.value == "" {
			continue
		}
		clean := filepath.Clean(file.value)
		if other, taken := used[clean]; taken {
			c.report(file.path, file.value, "a file of its own; "+other+" names the same")
		}
		used[clean] = file.path
	}
}
