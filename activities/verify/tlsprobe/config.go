package tlsprobe

import (
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"time"
)

// The modes.
const (
	ModeServer = "server"
	ModeClient = "client"
)

// Endpoints says where and how to shake hands. It is part of Config and PeerConfig.
type Endpoints struct {
	Addresses  []string      `yaml:"addresses"`  // host:port; every one is probed
	DNS        []string      `yaml:"dns"`        // name:port; every A and AAAA address of the name is probed
	ServerName string        `yaml:"serverName"` // name to ask for and to check; default: the host of the address or name
	ALPN       []string      `yaml:"alpn"`       // protocols to offer, such as h2 or postgresql; default: none
	Prelude    string        `yaml:"prelude"`    // what comes before TLS: none (default), postgres, smtp or imap
	Exchange   string        `yaml:"exchange"`   // how a byte is exchanged: http, postgres, smtp, imap, or quiet (a server that waits is fine); default: by prelude and ALPN, else quiet
	RootsFile  string        `yaml:"rootsFile"`  // PEM of the trust anchors that clients hold today; default: those of the certificate's configuration
	Timeout    time.Duration `yaml:"timeout"`    // of one handshake with its byte; default 5s
	Quiet      time.Duration `yaml:"quiet"`      // exchange quiet: how long a server may stay silent before it counts as content; default 300ms
	Concurrent int           `yaml:"concurrent"` // how many addresses are probed at once; default 16
}

// Identity is a client certificate in files.
type Identity struct {
	CertificateFile string `yaml:"certificateFile"` // PEM, leaf first
	KeyFile         string `yaml:"keyFile"`         // PEM
	CombinedFile    string `yaml:"combinedFile"`    // PEM of both, instead of the other two
}

// Config declares how one consumer is seen.
type Config struct {
	Endpoints `yaml:",inline"`

	Mode     string    `yaml:"mode"`     // server (default) or client
	Identity *Identity `yaml:"identity"` // server: what the probe presents to servers that demand a certificate
	Presents *Identity `yaml:"presents"` // client: the files that the consumer reads, readable for this worker
	Reports  []string  `yaml:"reports"`  // client: URLs of the consumer's instances that answer {"fingerprint": "..."}
}

const (
	defaultTimeout    = 5 * time.Second
	defaultQuiet      = 300 * time.Millisecond
	defaultConcurrent = 16
	maxConcurrent     = 256
)

func (e Endpoints) withDefaults() Endpoints {
	if e.Timeout == 0 {
		e.Timeout = defaultTimeout
	}
	if e.Quiet == 0 {
		e.Quiet = defaultQuiet
	}
	if e.Concurrent == 0 {
		e.Concurrent = defaultConcurrent
	}
	return e
}

// Check reports every problem of the configuration.
func (c Config) Check(report func(field, value, want string)) {
	c.Endpoints.check(report)
	named := len(c.Addresses) + len(c.DNS)
	switch c.Mode {
	case "", ModeServer:
		c.Identity.check(report, "identity")
		if c.Presents != nil {
			report("presents", "", "left out: it belongs to the mode client; the probe's own certificate is identity")
		}
		if len(c.Reports) > 0 {
			report("reports", c.Reports[0], "left out: it belongs to the mode client")
		}
	case ModeClient:
		c.Presents.check(report, "presents")
		if c.Identity != nil {
			report("identity", "", "left out: in the mode client, what is presented is presents")
		}
		if c.Presents == nil && len(c.Reports) == 0 {
			report("presents", "", "the files that the client reads, or reports")
		}
		if c.Presents == nil && named > 0 {
			report("addresses", "", "left out without presents: there is nothing to present to them")
		}
		for _, address := range c.Reports {
			checkReport(report, address)
		}
	default:
		report("mode", c.Mode, "server or client")
	}
}

func (e Endpoints) check(report func(field, value, want string)) {
	for field, list := range map[string][]string{"addresses": e.Addresses, "dns": e.DNS} {
		for _, address := range list {
			if host, port, err := net.SplitHostPort(address); err != nil || host == "" || !validPort(port) {
				report(field, address, "host:port")
			} else if field == "dns" && net.ParseIP(host) != nil {
				report(field, address, "a name and a port; an IP address belongs to addresses")
			}
		}
	}
	if _, ok := preludes[e.Prelude]; !ok {
		report("prelude", e.Prelude, "none, postgres, smtp or imap")
	}
	if _, ok := exchanges[e.Exchange]; !ok && e.Exchange != "" {
		report("exchange", e.Exchange, "http, postgres, smtp, imap or quiet")
	}
	if e.RootsFile != "" && !filepath.IsAbs(e.RootsFile) {
		report("rootsFile", e.RootsFile, "an absolute path")
	}
	for field, value := range map[string]time.Duration{"timeout": e.Timeout, "quiet": e.Quiet} {
		if value < 0 || value > time.Minute {
			report(field, value.String(), "a duration from 0s (the default) to 1m")
		}
	}
	if e.Concurrent < 0 || e.Concurrent > maxConcurrent {
		report("concurrent", strconv.Itoa(e.Concurrent), "a number from 1 to "+strconv.Itoa(maxConcurrent))
	}
}

func (i *Identity) check(report func(field, value, want string), field string) {
	if i == nil {
		return
	}
	pair := i.CertificateFile != "" && i.KeyFile != "" && i.CombinedFile == ""
	combined := i.CombinedFile != "" && i.CertificateFile == "" && i.KeyFile == ""
	if !pair && !combined {
		report(field, "", "certificateFile and keyFile, or combinedFile")
	}
	for _, path := range []string{i.CertificateFile, i.KeyFile, i.CombinedFile} {
		if path != "" && !filepath.IsAbs(path) {
			report(field, path, "absolute paths")
		}
	}
}

func checkReport(report func(field, value, want string), address string) {
	parsed, err := url.Parse(address)
	switch {
	case err != nil || parsed.Host == "" || parsed.User != nil || parsed.Scheme != "https" && parsed.Scheme != "http":
		report("reports", "", "URLs such as https://orders-1.example.com/identity, without user and password")
	case parsed.Scheme == "http" && !loopback(parsed.Hostname()):
		report("reports", parsed.Host, "https, because the host is not a loopback address")
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func validPort(port string) bool {
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}
