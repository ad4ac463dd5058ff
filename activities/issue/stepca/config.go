package stepca

import (
	"encoding/hex"
	"net/url"
	"strings"
)

// Config says which step-ca to use and as whom. The password is only ever named by its file.
type Config struct {
	URL             string `yaml:"url"`                       // https://host:port of the CA; required
	Root            string `yaml:"root"`                      // file with the CA's root certificate(s) in PEM; nothing else is trusted; required
	RootFingerprint string `yaml:"rootFingerprint,omitempty"` // SHA-256 of the root, hex, as `step certificate fingerprint` prints it; default: the file is trusted as it is
	Provisioner     string `yaml:"provisioner"`               // name of a JWK provisioner; required
	PasswordFile    string `yaml:"passwordFile"`              // file with the password of the provisioner's key; required
	KeyFile         string `yaml:"keyFile,omitempty"`         // file with the provisioner's encrypted key (JWE); default: the CA hands it out
}

// Check reports every problem as the field, its value and what was expected instead.
func (c Config) Check(report func(field, value, want string)) {
	address, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		report("url", "", "the CA's address, such as https://ca.example:9000")
	case err != nil || address.Scheme != "https" || address.Host == "":
		report("url", withoutUser(c.URL), "an address that begins with https:// and names a host")
	case address.User != nil || address.RawQuery != "" || address.Fragment != "":
		report("url", withoutUser(c.URL), "scheme, host, port and path only")
	}
	if c.Root == "" {
		report("root", "", "the file with the CA's root certificate")
	}
	if c.RootFingerprint != "" {
		if sum, err := hex.DecodeString(plainHex(c.RootFingerprint)); err != nil || len(sum) != 32 {
			report("rootFingerprint", c.RootFingerprint, "a SHA-256 in hexadecimal: 64 digits")
		}
	}
	if c.Provisioner == "" {
		report("provisioner", "", "the name of a JWK provisioner")
	}
	if c.PasswordFile == "" {
		report("passwordFile", "", "the file with the password of the provisioner's key")
	}
}

// plainHex takes the ways in which tools print fingerprints to one.
func plainHex(text string) string {
	return strings.ToLower(strings.ReplaceAll(text, ":", ""))
}

// withoutUser keeps credentials that somebody put into an address out of the report.
func withoutUser(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		scheme, rest = "", text
	} else {
		scheme += "://"
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = "..." + rest[at:]
	}
	return scheme + rest
}
