// Package ca runs a step-ca certificate authority inside this process: a root and an intermediate that
// it makes on the first start, a JWK provisioner for one-time tokens, an ACME provisioner, and a CRL
// that is renewed with every revocation.
//
// It is the embedded default of castellan-dev and of tests. It listens on a loopback address only and
// is no place for a production root: the root's key lies beside the intermediate's, readable by the
// owner alone, and encrypted only if PasswordFile names a password, because one that lay beside the
// keys would protect nothing. Clients speak step-ca's own HTTPS interface to it, exactly as to a remote step-ca (activities/issue/stepca); nothing may reach
// into the authority from inside the process.
//
// step-ca takes the time from the system, not from an injected clock. Config.Now only dates the root
// and the intermediate, and decides at the start whether they have expired.
package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/smallstep/certificates/authority"
)

// Config says where the authority lives. Dir and Listen are required.
type Config struct {
	Dir          string           // owned by the authority; created with owner-only permission
	Listen       string           // a loopback address with port, such as 127.0.0.1:9443; port 0 picks a free one
	PasswordFile string           // encrypts the keys of root and intermediate; default: they are not encrypted
	Name         string           // in the subjects of root and intermediate; default "castellan"
	Now          func() time.Time // default time.Now
	Log          *slog.Logger     // default: slog.Default
}

const (
	// ProvisionerName names the JWK provisioner, which signs whatever names its tokens carry.
	ProvisionerName = "castellan"
	// ACMEName names the ACME provisioner.
	ACMEName = "acme"

	minLifetime     = 10 * time.Second
	defaultLifetime = 24 * time.Hour
	maxLifetime     = 90 * 24 * time.Hour

	stopPatience = 5 * time.Second
	maxBody      = 1 << 20
)

// CA is a running authority.
type CA struct {
	files     files
	root      *x509.Certificate
	url       string
	authority *authority.Authority
	database  *database
	server    *http.Server
	served    chan struct{}
	failure   error // why serving ended; read it only after served is closed
	lock      *lock
	stop      sync.Once
	stopped   error
}

// Start makes the authority's keys if the directory has none, and serves until Stop. A directory that
// another process uses, and a root or intermediate that has expired, are refused.
func Start(ctx context.Context, config Config) (_ *CA, err error) {
	if config, err = config.complete(); err != nil {
		return nil, err
	}
	var undo cleanup
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.run())
		}
	}()

	ca := &CA{files: files{dir: filepath.Join(config.Dir, "authority")}, served: make(chan struct{})}
	if ca.lock, err = acquire(config.Dir); err != nil {
		return nil, err
	}
	undo.add(ca.lock.release)

	material, err := load(config, ca.files)
	if err != nil {
		return nil, err
	}
	ca.root = material.root

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", config.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for the embedded CA: %w", err)
	}
	undo.add(listener.Close)
	ca.url = "https://" + listener.Addr().String()

	if ca.database, err = openDatabase(filepath.Join(config.Dir, "ca.db")); err != nil {
		return nil, err
	}
	undo.add(ca.database.Close)

	if ca.authority, err = newAuthority(ca.files, material, ca.database, listener.Addr().String(), ca.CRLURL()); err != nil {
		return nil, err
	}
	undo.add(ca.authority.Shutdown)
	if ca.server, err = newServer(ca.authority, ca.database, material, listener.Addr().String(), config.Log); err != nil {
		return nil, err
	}
	go ca.serve(listener)
	return ca, nil
}

// complete fills in defaults and refuses what cannot work.
func (c Config) complete() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("start the embedded CA: no directory given")
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return c, fmt.Errorf("start the embedded CA: listen address %q: %w", c.Listen, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return c, fmt.Errorf("start the embedded CA: listen address %q is not a loopback IP address", c.Listen)
	}
	if c.Name == "" {
		c.Name = "castellan"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c, nil
}

func (c *CA) serve(listener net.Listener) {
	defer close(c.served)
	if err := c.server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		c.failure = fmt.Errorf("serve the embedded CA: %w", err)
	}
}

// Stop ends serving and closes the database. Requests in hand get a few seconds; then they are cut.
// Further calls return what the first one did.
func (c *CA) Stop(ctx context.Context) error {
	c.stop.Do(func() { c.stopped = c.shutdown(ctx) })
	return c.stopped
}

func (c *CA) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	err := c.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = c.server.Close()
	}
	<-c.served
	return errors.Join(err, c.failure, c.authority.Shutdown(), c.lock.release())
}

// Done is closed when the authority no longer serves, be it by Stop or by a failure that Stop reports.
func (c *CA) Done() <-chan struct{} { return c.served }

// URL returns the base address, without a path.
func (c *CA) URL() string { return c.url }

// ACMEDirectory returns the address that ACME clients start from.
func (c *CA) ACMEDirectory() string { return c.url + "/acme/" + ACMEName + "/directory" }

// CRLURL returns where the revocation list is served, as DER.
func (c *CA) CRLURL() string { return c.url + "/1.0/crl" }

// CRL serves the revocation list, so that it can be mounted on plain HTTP beside other things.
func (c *CA) CRL() http.Handler { return crlHandler(c.authority) }

// Root returns the trust anchor.
func (c *CA) Root() *x509.Certificate { return c.root }

// RootFile returns the path of the trust anchor in PEM.
func (c *CA) RootFile() string { return c.files.rootCertificate() }

// Provisioner returns the name of the provisioner whose tokens may sign any names.
func (c *CA) Provisioner() string { return ProvisionerName }

// PasswordFile returns the path of the password that decrypts the provisioner's key.
func (c *CA) PasswordFile() string { return c.files.provisionerPassword() }

// TLSConfig returns a client's configuration that trusts this authority and nothing else.
func (c *CA) TLSConfig() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(c.root)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
}
