package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// The identities that are not zones. A zone's identity has the zone's name, narrowed to a host
// where the zone's queue is: "control", "observe", "privileged/web1".
const (
	// Engine is the embedded Temporal server.
	Engine = "engine"
	// Dev is a process that holds every zone.
	Dev = "dev"
	// Serve is `castellan serve`: API, record zone and schedules.
	Serve = "serve"
	// Operator is a person's command line.
	Operator = "operator"
	// UI is the Web UI; it only reads.
	UI = "ui"
)

// scheme and authority of the URI that carries the name inside a certificate.
const uriPrefix = "castellan://identity/"

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}(/[a-z0-9][a-z0-9._-]{0,252})?$`)

// CheckName reports whether name may be an identity: lower case, optionally narrowed to one host
// behind a slash, as in "privileged/web1".
func CheckName(name string) error {
	if !validName.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Errorf("check identity name: %q is not lower-case letters, digits, '.', '_' or '-', with at most one '/'", name)
	}
	return nil
}

func nameURI(name string) *url.URL {
	return &url.URL{Scheme: "castellan", Host: "identity", Path: "/" + name}
}

// Peer returns the identity on the other side of a connection whose certificate was verified. It
// works on the server's side of a connection made with [Source.TLSServer]; a client pins the server
// by name in [Source.TLSClient] instead.
func Peer(state *tls.ConnectionState) (string, error) {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return "", errors.New("read peer identity: the connection has no verified client certificate")
	}
	return nameOf(state.VerifiedChains[0][0])
}

// nameOf reads the one identity of a certificate. More than one is refused: it would be a choice.
func nameOf(certificate *x509.Certificate) (string, error) {
	var names []string
	for _, uri := range certificate.URIs {
		if name, ok := strings.CutPrefix(uri.String(), uriPrefix); ok {
			names = append(names, name)
		}
	}
	if len(names) != 1 {
		return "", fmt.Errorf("read peer identity: certificate carries %d identities, want exactly one", len(names))
	}
	if err := CheckName(names[0]); err != nil {
		return "", err
	}
	return names[0], nil
}
