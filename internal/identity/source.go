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

	Now    func() time.Time // nil means time.Now
	Random func() float64   // in [0,1), for the jitter; nil means math/rand
	Logger *slog.Logger     // nil means silence
}

// Source holds the current certificate of one identity. It is safe for concurrent use.
type Source struct {
	config SourceConfig

	mu      sync.Mutex
	current *material
}

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
	if config.Renewer == nil {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewLocked(ctx)
}

func (s *Source) renewLocked(ctx context.Context) error {
	if s.config.Renewer == nil {
		return s.reloadLocked()
	}
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
	if s.config.Files != (Files{}) {
		if err := s.config.Files.write(key, chain, issued.Roots); err != nil {
			return fmt.Errorf("renew identity %q: %w", s.config.Name, err)
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.Renewer == nil {
		return s.reloadLocked()
	}
	if s.config.Now().Before(s.current.renewAt) {
		return nil
	}
	return s.renewLocked(ctx)
}

// interval is how often Run looks: often enough for lives of seconds, rarely enough to be free.
func (s *Source) interval() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	life := s.current.certificate.Leaf.NotAfter.Sub(s.current.certificate.Leaf.NotBefore)
	return min(max(life/50, 200*time.Millisecond), 30*time.Second)
}

// use returns what the next handshake needs. An expired certificate is replaced on the spot when a
// Renewer is at hand, so a machine that was suspended recovers with its first connection.
func (s *Source) use(ctx context.Context) (*material, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.Renewer == nil {
		if err := s.reloadLocked(); err != nil {
			s.config.Logger.Warn("identity files cannot be read; the previous certificate stays", "identity", s.config.Name, "error", err)
		}
		return s.current, nil
	}
	if !s.config.Now().Before(s.current.notAfter) {
		if err := s.renewLocked(ctx); err != nil {
			return nil, err
		}
	}
	return s.current, nil
}
