package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	// A root with less than this left is replaced at the next start, so that it never ends while
	// leaves that it signed are in use. The previous one stays trusted until it expires.
	rootReserve = 365 * 24 * time.Hour
	// Clocks of processes on one host agree, those of two hosts nearly do.
	skew = time.Minute

	rootFile = "root.pem" // key, current root, previous roots
)

// DefaultLife is how long a leaf certificate lives when nothing else is configured.
const DefaultLife = 24 * time.Hour

// AuthorityConfig says where an Authority lives.
type AuthorityConfig struct {
	Dir  string           // holds the root, readable by its owner only
	Life time.Duration    // of a leaf; zero means DefaultLife
	Now  func() time.Time // nil means time.Now
	// Hosts are DNS names and IP addresses that leaves carry besides localhost, 127.0.0.1 and ::1.
	Hosts []string
}

// Authority is a private CA that signs short-lived certificates for named identities.
type Authority struct {
	config AuthorityConfig
	key    *ecdsa.PrivateKey
	roots  []*x509.Certificate // the current one first
}

// OpenAuthority loads the root from its directory, or makes one there on first use.
func OpenAuthority(config AuthorityConfig) (*Authority, error) {
	if config.Life <= 0 {
		config.Life = DefaultLife
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	a := &Authority{config: config}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open identity authority: %w", err)
	}
	content, err := os.ReadFile(a.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, a.createRoot(nil)
	case err != nil:
		return nil, fmt.Errorf("open identity authority: %w", err)
	}
	if a.key, a.roots, err = parsePair(content); err != nil {
		return nil, fmt.Errorf("open identity authority: read %q: %w", a.path(), err)
	}
	if config.Now().Add(rootReserve).After(a.roots[0].NotAfter) {
		return a, a.createRoot(a.roots)
	}
	return a, nil
}

func (a *Authority) path() string { return filepath.Join(a.config.Dir, rootFile) }

// createRoot makes a root and keeps those of previous that are still valid as trusted.
func (a *Authority) createRoot(previous []*x509.Certificate) error {
	now := a.config.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("create identity root: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return fmt.Errorf("create identity root: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "castellan identities " + serial.Text(16)[:8]},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("create identity root: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("create identity root: %w", err)
	}
	roots := []*x509.Certificate{root}
	for _, certificate := range previous {
		if now.Before(certificate.NotAfter) {
			roots = append(roots, certificate)
		}
	}
	content, err := formatPair(key, roots)
	if err != nil {
		return fmt.Errorf("create identity root: %w", err)
	}
	if err := writeFile(a.path(), content, 0o600); err != nil {
		return fmt.Errorf("create identity root: %w", err)
	}
	a.key, a.roots = key, roots
	return nil
}

// HoldsAuthority reports whether an Authority lives in dir. [OpenAuthority] would make one.
func HoldsAuthority(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, rootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Roots returns the certificates, PEM, that peers must trust.
func (a *Authority) Roots() []byte { return formatCertificates(a.roots) }

// Renewer returns the hook with which a [Source] in this process gets certificates for name. The
// names in a request are ignored: the authority decides what a certificate says.
func (a *Authority) Renewer(name string) Renewer {
	return func(_ context.Context, request []byte) (Issued, error) {
		parsed, err := x509.ParseCertificateRequest(request)
		if err != nil {
			return Issued{}, fmt.Errorf("issue identity %q: %w", name, err)
		}
		// Sources make such keys only, and a request from afar shall not choose what checking it costs.
		if key, ok := parsed.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			return Issued{}, fmt.Errorf("issue identity %q: the request is not for an ECDSA key on P-256", name)
		}
		if err := parsed.CheckSignature(); err != nil {
			return Issued{}, fmt.Errorf("issue identity %q: %w", name, err)
		}
		chain, err := a.sign(name, parsed.PublicKey)
		if err != nil {
			return Issued{}, fmt.Errorf("issue identity %q: %w", name, err)
		}
		return Issued{Chain: chain, Roots: a.Roots()}, nil
	}
}

func (a *Authority) sign(name string, public any) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := a.config.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-min(skew, a.config.Life/10)),
		NotAfter:              now.Add(a.config.Life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{nameURI(name)},
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, host := range a.config.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.roots[0], public, a.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der}), nil
}

// Signed reports whether the certificate that a Source holds is one that this authority stands by, and
// whether the Source trusts the authority's present root.
func (a *Authority) Signed(source *Source) bool {
	source.mu.Lock()
	current := source.current
	source.mu.Unlock()
	own := x509.NewCertPool()
	for _, root := range a.roots {
		own.AddCert(root)
	}
	_, err := current.certificate.Leaf.Verify(x509.VerifyOptions{
		Roots: own, CurrentTime: a.config.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	_, untrusted := a.roots[0].Verify(x509.VerifyOptions{
		Roots: current.roots, CurrentTime: a.config.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil && untrusted == nil
}

func serialNumber() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return serial.SetBit(serial, 126, 1), nil // never short, never zero
}
