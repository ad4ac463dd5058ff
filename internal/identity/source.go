package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"path/filepath"
	"sync"
	"time"
)

// Issued is what a CA answers: PEM texts, the leaf first in Chain.
type Issued struct {
	Chain []byte
	Roots []byte // every root that peers may be signed by, previous ones included
}

// Renewer obtains a certificate for a PKCS #10 request (DER). The private key stays in the process.
type Renewer func(ctx context.Context, request []byte) (Issued, error)

// SourceConfig says whose certificate a Source holds and where it comes from. Renewer, Files or
// both are set.
type SourceConfig struct {
	Name string
	// Renewer obtains certificates. Without it somebody else renews the files.
	Renewer Renewer
	// Files are where the certificate lies. With a Renewer each renewal is written there; without
	// one they are read again whenever they changed.
	Files Files
	// Remote says that the Renewer proves itself with the certificate that this Source holds. Then the
	// files are where it begins, a renewal waits until it is due, files that another process renewed
	// are taken over, and a certificate that has expired cannot be renewed any more. It needs Files.
	Remote bool

	Now    func() time.Time // nil means time.Now
	Random func() float64   // in [0,1), for the jitter; nil means math/rand
	Logger *slog.Logger     // nil means silence
}

// Source holds the current certificate of one identity. It is safe for concurrent use.
type Source struct {
	config SourceConfig

	renewing sync.Mutex // held while a certificate is obtained; handshakes go on meanwhile

	mu      sync.Mutex // guards current; never held while anybody else is asked
	current *material
}

// ErrExpired is inside the error of a handshake that needs a certificate when the one at hand has
// expired and this process cannot obtain another.
var ErrExpired = errors.New("certificate has expired")

// material is one generation of a certificate; it is never changed after it was made.
type material struct {
	certificate tls.Certificate
	roots       *x509.CertPool
	notAfter    time.Time
	renewAt     time.Time // picked once, so that the jitter is not rolled again at every look
	stamp       stamp
}

// NewSource loads the identity or, when there is none that will do, obtains one. A Source that only
// reads files starts also when they hold an expired certificate: it waits for fresh ones.
func NewSource(ctx context.Context, config SourceConfig) (*Source, error) {
	if err := CheckName(config.Name); err != nil {
		return nil, err
	}
	if config.Renewer == nil && config.Files == (Files{}) {
		return nil, fmt.Errorf("open identity %q: neither files nor a renewer are given", config.Name)
	}
	if config.Remote && (config.Renewer == nil || config.Files == (Files{})) {
		return nil, fmt.Errorf("open identity %q: a remote renewer needs files to begin with", config.Name)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Random == nil {
		config.Random = mathrand.Float64
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Source{config: config}
	if config.Renewer == nil || config.Remote {
		return s, s.reload()
	}
	// What the files hold is not reused: a root may have been replaced since, and a key that is
	// made anew at every start is one that a backup of the files cannot betray for long.
	return s, s.Renew(ctx)
}

// Name returns the identity's name.
func (s *Source) Name() string { return s.config.Name }

// NotAfter returns when the certificate in use expires.
func (s *Source) NotAfter() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.notAfter
}

// Renew obtains a certificate for a key made now and uses it from the next handshake on. Without a
// Renewer it reads the files again.
func (s *Source) Renew(ctx context.Context) error {
	if s.config.Renewer == nil {
		return s.reload()
	}
	s.renewing.Lock()
	defer s.renewing.Unlock()
	return s.renew(ctx)
}

// renew does it for a caller that holds renewing.
func (s *Source) renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("renew identity %q: %w", s.config.Name, err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, requestTemplate(s.config.Name), key)
	if err != nil {
		return fmt.Errorf("renew identity %q: %w", s.config.Name, err)
	}
	issued, err := s.config.Renewer(ctx, request)
	if err != nil {
		return fmt.Errorf("renew identity %q: %w", s.config.Name, err)
	}
	chain, err := parseCertificates(issued.Chain)
	if err != nil {
		return fmt.Errorf("renew identity %q: %w", s.config.Name, err)
	}
	renewed, err := s.assemble(key, chain, issued.Roots)
	if err != nil {
		return fmt.Errorf("renew identity %q: %w", s.config.Name, err)
	}
	return s.take(renewed, key, chain, issued.Roots)
}

// take writes a renewed certificate to the files and uses it. Whoever can have another at any time
// does without one that cannot be written; with a remote renewer it may be the last one to be had, so
// it is used all the same, and asked for no sooner than it is due again.
func (s *Source) take(renewed *material, key *ecdsa.PrivateKey, chain []*x509.Certificate, roots []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.Files != (Files{}) {
		err := s.config.Files.write(key, chain, roots)
		switch {
		case err != nil && !s.config.Remote:
			return fmt.Errorf("renew identity %q: %w", s.config.Name, err)
		case err != nil:
			renewed.stamp, s.current = s.current.stamp, renewed
			return fmt.Errorf("renew identity %q: it is renewed in memory only: %w", s.config.Name, err)
		}
		if seen, err := s.config.Files.stamp(); err == nil {
			renewed.stamp = seen
		}
	}
	s.current = renewed
	s.config.Logger.Debug("identity renewed", "identity", s.config.Name, "notAfter", renewed.notAfter)
	return nil
}

// assemble checks that key, chain and roots fit together and are this identity's.
func (s *Source) assemble(key *ecdsa.PrivateKey, chain []*x509.Certificate, roots []byte) (*material, error) {
	leaf := chain[0]
	name, err := nameOf(leaf)
	if err != nil {
		return nil, err
	}
	if name != s.config.Name {
		return nil, fmt.Errorf("certificate is for identity %q", name)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("certificate is for another key")
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		return nil, errors.New("roots hold no certificate")
	}
	m := &material{roots: pool, notAfter: leaf.NotAfter}
	m.certificate = tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, certificate := range chain {
		m.certificate.Certificate = append(m.certificate.Certificate, certificate.Raw)
	}
	// Two thirds of the life, up to a twelfth earlier: many processes started together should not
	// renew together.
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	m.renewAt = leaf.NotBefore.Add(life*2/3 - time.Duration(s.config.Random()*float64(life/12)))
	return m, nil
}

// Run renews the certificate until ctx is done. Failures are logged and tried again; the
// certificate in use stays. It looks at the clock often instead of sleeping until the due moment,
// because a timer does not run while a machine is suspended.
func (s *Source) Run(ctx context.Context) error {
	failing := false
	for {
		err := s.Tick(ctx)
		switch {
		case err != nil && !failing:
			s.config.Logger.Warn("identity cannot be renewed", "identity", s.config.Name, "notAfter", s.NotAfter(), "error", err)
		case err == nil && failing:
			s.config.Logger.Info("identity renewed again", "identity", s.config.Name, "notAfter", s.NotAfter())
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.interval()):
		}
	}
}

// Tick renews the certificate if that is due. Run calls it; tests with a clock of their own may.
func (s *Source) Tick(ctx context.Context) error {
	if s.config.Renewer == nil {
		return s.reload()
	}
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if s.config.Remote {
		if err := s.reload(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	current := s.current
	s.mu.Unlock()
	now := s.config.Now()
	switch {
	case now.Before(current.renewAt):
		return nil
	case s.config.Remote && !now.Before(current.notAfter):
		return s.expired(current)
	}
	return s.renew(ctx)
}

// interval is how often Run looks: often enough for lives of seconds, rarely enough to be free.
func (s *Source) interval() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	life := s.current.certificate.Leaf.NotAfter.Sub(s.current.certificate.Leaf.NotBefore)
	return min(max(life/50, 200*time.Millisecond), 30*time.Second)
}

// use returns what the next handshake needs. An expired certificate is replaced on the spot when a
// Renewer is at hand, so a machine that was suspended recovers with its first connection. Where none
// is, the error says how a person gets a fresh one.
func (s *Source) use(ctx context.Context) (*material, error) {
	current := s.latest()
	if s.config.Now().Before(current.notAfter) {
		return current, nil
	}
	if s.config.Renewer == nil || s.config.Remote {
		return nil, s.expired(current)
	}
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if current = s.latest(); s.config.Now().Before(current.notAfter) {
		return current, nil // renewed while we waited
	}
	if err := s.renew(ctx); err != nil {
		return nil, err
	}
	return s.latest(), nil
}

// latest returns the certificate in use, after a look at the files where others renew them.
func (s *Source) latest() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.Renewer == nil || s.config.Remote {
		if err := s.reloadLocked(); err != nil {
			s.config.Logger.Warn("identity files cannot be read; the previous certificate stays", "identity", s.config.Name, "error", err)
		}
	}
	return s.current
}

// expired says what happened and how a fresh certificate is had.
func (s *Source) expired(m *material) error {
	return fmt.Errorf("use identity %q: %w at %s: run `castellan identity issue %s` on the machine of castellan serve and put the files into %s",
		s.config.Name, ErrExpired, m.notAfter.UTC().Format(time.RFC3339), s.config.Name, filepath.Dir(s.config.Files.Pair))
}
