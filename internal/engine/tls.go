package engine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"go.temporal.io/server/common/rpc/encryption"

	"castellan.dev/internal/identity"
)

// internodeName is in no DNS: only the services of this process know each other by it.
const internodeName = "internode.castellan.invalid"

// transport gives each service its TLS configuration. Clients meet the frontend with certificates
// of castellan's identities; the services meet each other with a key that exists only in this
// process's memory, so no identity, however privileged, can speak to them directly.
type transport struct {
	frontend  *identity.Source
	internode tls.Certificate
	trusted   *x509.CertPool
}

func newTransport(frontend *identity.Source) (*transport, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make internode certificate: %w", err)
	}
	// One certificate that is its own root: it is made at each start and ends with the process, so
	// its life is of no consequence and there is nobody else to sign for.
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: internodeName},
		DNSNames:     []string{internodeName},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make internode certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make internode certificate: %w", err)
	}
	t := &transport{frontend: frontend, trusted: x509.NewCertPool()}
	t.internode = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	t.trusted.AddCert(leaf)
	return t, nil
}

// GetInternodeServerConfig implements encryption.TLSConfigProvider.
func (t *transport) GetInternodeServerConfig() (*tls.Config, error) {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		Certificates:           []tls.Certificate{t.internode},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              t.trusted,
	}, nil
}

// GetInternodeClientConfig implements encryption.TLSConfigProvider.
func (t *transport) GetInternodeClientConfig() (*tls.Config, error) {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   internodeName,
		Certificates: []tls.Certificate{t.internode},
		RootCAs:      t.trusted,
	}, nil
}

// GetFrontendServerConfig implements encryption.TLSConfigProvider.
func (t *transport) GetFrontendServerConfig() (*tls.Config, error) {
	return t.frontend.TLSServer(), nil
}

// GetFrontendClientConfig implements encryption.TLSConfigProvider.
func (t *transport) GetFrontendClientConfig() (*tls.Config, error) {
	return t.frontend.TLSClient(t.frontend.Name()), nil
}

// GetRemoteClusterClientConfig implements encryption.TLSConfigProvider. There is no remote cluster,
// so the configuration trusts nobody.
func (t *transport) GetRemoteClusterClientConfig(string) (*tls.Config, error) {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool()}, nil
}

// GetExpiringCerts implements encryption.TLSConfigProvider. The identities renew themselves and
// say so when they cannot.
func (t *transport) GetExpiringCerts(time.Duration) (expiring, expired encryption.CertExpirationMap, err error) {
	return nil, nil, nil
}
