package config

import (
	"maps"
	"slices"
	"time"
)

// Environment says what the installation is for.
type Environment string

const (
	// Development allows the embedded parts. It is the default.
	Development Environment = "development"
	// Production is refused by castellan-dev.
	Production Environment = "production"
)

// Config is the whole configuration. Processes of one installation may share one file: each reads
// the parts that its zone needs.
type Config struct {
	Environment Environment `yaml:"environment"` // development (default) or production
	State       string      `yaml:"state"`       // directory for what the process keeps; default: the --state flag
	Engine      Engine      `yaml:"engine"`
	Codec       Codec       `yaml:"codec"`
	Store       Section     `yaml:"store"`    // where candidates, keys and heads live; default: the embedded file store in the state directory
	Database    Section     `yaml:"database"` // the service's own data; default: SQLite in the state directory
	Ledger      Ledger      `yaml:"ledger"`
	API         API         `yaml:"api"`
	Telemetry   Telemetry   `yaml:"telemetry"`
	Hosts       []string    `yaml:"hosts"` // machines that run a privileged worker of their own

	Issuers      map[string]Section     `yaml:"issuers"`
	Policies     map[string]Policy      `yaml:"policies"` // the one named default applies to certificates that name none
	Blackouts    map[string]Blackout    `yaml:"blackouts"`
	Certificates map[string]Certificate `yaml:"certificates"`
	Schedules    map[string]Schedule    `yaml:"schedules"` // overrides of and additions to the schedules that castellan declares itself

	file  string
	lines map[string]int // line of every field that the file has
}

// Engine is the Temporal service that castellan runs on. What is left empty comes from Temporal's own
// environment variables and profile file, then from Temporal's defaults.
type Engine struct {
	Address    string    `yaml:"address"`    // host:port of the frontend
	Namespace  string    `yaml:"namespace"`  // default: default
	TLS        EngineTLS `yaml:"tls"`        // default: none
	APIKeyFile string    `yaml:"apiKeyFile"` // file with an API key, read at each use
}

// EngineTLS is how castellan and the engine recognise each other.
type EngineTLS struct {
	CAFile       string `yaml:"caFile"`       // PEM roots; default: the system's
	IdentityFile string `yaml:"identityFile"` // one PEM file with certificate and key, read at each handshake
	CertFile     string `yaml:"certFile"`     // instead of identityFile, together with keyFile
	KeyFile      string `yaml:"keyFile"`
	ServerName   string `yaml:"serverName"` // default: the host in engine.address
}

// IsZero reports whether TLS was not configured.
func (t EngineTLS) IsZero() bool { return t == EngineTLS{} }

// Codec encrypts what the engine stores.
type Codec struct {
	KeyringFile string       `yaml:"keyringFile"` // default: made in the state directory
	Vault       *VaultUnwrap `yaml:"vault"`       // unwraps the keyring at start; default: the keyring is not wrapped
}

// VaultUnwrap is a Vault transit key that wraps the keyring.
type VaultUnwrap struct {
	Address   string `yaml:"address"`   // https://host:port, required
	Transit   string `yaml:"transit"`   // mount of the transit engine; default: transit
	Key       string `yaml:"key"`       // name of the transit key, required
	TokenFile string `yaml:"tokenFile"` // required
	CAFile    string `yaml:"caFile"`    // PEM roots; default: the system's
}

// Ledger is the evidence log.
type Ledger struct {
	KeyFile     string      `yaml:"keyFile"` // signing key, held by serve only; default: made in the state directory
	URL         string      `yaml:"url"`     // where zones submit entries; default: api.publicURL
	Checkpoints Checkpoints `yaml:"checkpoints"`
}

// Checkpoints are signed heads of the ledger, written to a second place.
type Checkpoints struct {
	Directory string        `yaml:"directory"` // default: checkpoints in the state directory
	Every     time.Duration `yaml:"every"`     // default: 1h
}

// API is what people and the CLI talk to.
type API struct {
	Listen      string `yaml:"listen"`      // default: 127.0.0.1:8443
	PublicURL   string `yaml:"publicURL"`   // https; default: https:// and the listening address
	IdentityDir string `yaml:"identityDir"` // castellan's own CA and identities; default: identity in the state directory
	Login       Login  `yaml:"login"`
}

// Login is how people prove who they are.
type Login struct {
	UsersFile string        `yaml:"usersFile"` // local users with hashed passwords; default: users in the state directory
	Session   time.Duration `yaml:"session"`   // how long a login lasts; default: 8h
}

// Telemetry is what castellan tells about itself.
type Telemetry struct {
	Metrics Metrics `yaml:"metrics"`
	Traces  Traces  `yaml:"traces"`
	Log     Log     `yaml:"log"`
}

// Metrics are served in the Prometheus format.
type Metrics struct {
	Listen string `yaml:"listen"` // host:port; default: not served
}

// Traces are sent by OTLP over gRPC.
type Traces struct {
	Endpoint string `yaml:"endpoint"` // host:port; default: not sent
}

// Log is how the process logs to standard error.
type Log struct {
	Format string `yaml:"format"` // text (default) or json
	Level  string `yaml:"level"`  // debug, info (default), warn or error
}

// Certificate is a target: a certificate that castellan keeps fresh.
type Certificate struct {
	Issuer      string        `yaml:"issuer"`      // name in issuers, required
	Policy      string        `yaml:"policy"`      // name in policies; default: the policy named default, else the built-in one
	Owner       string        `yaml:"owner"`       // who is told and asked; free text
	DNSNames    []string      `yaml:"dnsNames"`    // at least one of dnsNames, ipAddresses and uris
	IPAddresses []string      `yaml:"ipAddresses"` //
	URIs        []string      `yaml:"uris"`        //
	CommonName  string        `yaml:"commonName"`  // default: the first DNS name
	Usage       string        `yaml:"usage"`       // server (default), client or both
	Lifetime    time.Duration `yaml:"lifetime"`    // default: the issuer's
	Key         string        `yaml:"key"`         // ecdsa-p256 (default), ecdsa-p384, ed25519, rsa-2048, rsa-3072 or rsa-4096
	Observe     bool          `yaml:"observe"`     // adopted: watched and reported on, never changed; default: false
	Deliveries  []Delivery    `yaml:"deliveries"`  // where it is put, in this order; at least one unless it is only observed
	Consumers   []Consumer    `yaml:"consumers"`   // who must be proven to use it before the previous key is erased
	Canary      int           `yaml:"canary"`      // how many deliveries go first and are proven before the rest; default: 1

	BundleFile  string        `yaml:"bundleFile"`  // PEM of the trust anchors that clients hold today; default: the issuer's roots
	Rekey       bool          `yaml:"rekey"`       // replace over the current certificate's own connection where the issuer can; default: false
	Peers       []Peer        `yaml:"peers"`       // who must refuse the previous certificate when it was compromised
	CanaryGrace time.Duration `yaml:"canaryGrace"` // how long a broken canary may stay broken before rollback; default: 1m
}

// Delivery puts a certificate and its key where programs read them. Further fields depend on the kind.
type Delivery struct {
	Name   string   `yaml:"name"`   // default: the kind; unique in the certificate
	Kind   string   `yaml:"kind"`   // required
	Host   string   `yaml:"host"`   // name in hosts whose worker must do it; default: any privileged worker
	Reload *Section `yaml:"reload"` // how programs are made to notice; default: they notice by themselves
	Rest   Section  `yaml:",inline"`
}

// Peer is somebody who accepts the certificate. Further fields depend on the kind.
type Peer struct {
	Name string  `yaml:"name"` // unique in the certificate; required
	Kind string  `yaml:"kind"` // how to ask it whether it refuses a revoked certificate; none: it cannot be asked
	Rest Section `yaml:",inline"`
}

// Consumer is a program that uses the certificate. Further fields depend on the kind.
type Consumer struct {
	Name     string   `yaml:"name"`     // default: the kind; unique in the certificate
	Kind     string   `yaml:"kind"`     // how to see what it uses; required
	Delivery []string `yaml:"delivery"` // names of the deliveries that it reads; default: all
	Rest     Section  `yaml:",inline"`
}

// Schedule overrides a schedule that castellan declares, or adds one. What is left empty keeps the
// declared value.
type Schedule struct {
	Work          string        `yaml:"work"`          // what it starts: sweep (default)
	Every         time.Duration `yaml:"every"`         // interval; sweep: 1m
	Jitter        time.Duration `yaml:"jitter"`        // at least a tenth of the interval; default: a fifth of it
	Overlap       string        `yaml:"overlap"`       // skip (default) or buffer-one
	CatchUp       time.Duration `yaml:"catchUp"`       // how late a missed start may be made up for, at most the interval; default: the interval, at least 10s
	SucceedWithin time.Duration `yaml:"succeedWithin"` // the watchdog alarms when no run succeeded for this long; default: 5 intervals, at least 5m
}

// File returns the path that the configuration was read from.
func (c *Config) File() string { return c.file }

// Targets returns the names of all certificates, sorted.
func (c *Config) Targets() []string { return slices.Sorted(maps.Keys(c.Certificates)) }

// Has reports whether the file has a field, such as "codec.keyringFile": false where a default applies.
func (c *Config) Has(field string) bool {
	_, ok := c.lines[field]
	return ok
}

// Require reports each of the fields that the file lacks, for processes that cannot do without them.
func (c *Config) Require(reason string, fields ...string) Problems {
	var problems Problems
	for _, field := range fields {
		if !c.Has(field) {
			problems = append(problems, Problem{File: c.file, Field: field, Want: "a value, " + reason})
		}
	}
	return problems
}
