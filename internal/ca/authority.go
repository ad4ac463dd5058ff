package ca

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/certificates/db"
)

// database is step-ca's own: issued certificates, used tokens, revocations, ACME state. It may be
// closed twice, because step-ca closes it too.
type database struct {
	*db.DB
	once sync.Once
}

func openDatabase(path string) (*database, error) {
	opened, err := db.New(&db.Config{Type: "bbolt", DataSource: path})
	if err != nil {
		return nil, fmt.Errorf("open the embedded CA's database %q: %w", path, err)
	}
	return &database{DB: opened.(*db.DB)}, nil
}

// Close closes the database.
func (d *database) Close() error { return d.Shutdown() }

// Shutdown closes the database; step-ca calls it.
func (d *database) Shutdown() error {
	var err error
	d.once.Do(func() { err = d.DB.Shutdown() })
	return err
}

// newAuthority makes step-ca's core. Its configuration exists in memory only; the files hold what must
// survive.
func newAuthority(files files, found material, database *database, address, crl string) (*authority.Authority, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	settings := &config.Config{
		Root:             []string{files.rootCertificate()},
		IntermediateCert: files.intermediateCertificate(),
		IntermediateKey:  files.intermediateKey(),
		Address:          address,
		DNSNames:         serverNames(host),
		CommonName:       "castellan embedded CA",
		CRL:              &config.CRLConfig{Enabled: true, GenerateOnRevoke: true, IDPurl: crl},
		AuthorityConfig: &config.AuthConfig{
			Claims: &provisioner.Claims{
				MinTLSDur:     &provisioner.Duration{Duration: minLifetime},
				MaxTLSDur:     &provisioner.Duration{Duration: maxLifetime},
				DefaultTLSDur: &provisioner.Duration{Duration: defaultLifetime},
			},
			Provisioners: provisioner.List{
				&provisioner.JWK{
					Type:         "JWK",
					Name:         ProvisionerName,
					Key:          found.provisioner.Key,
					EncryptedKey: found.provisioner.EncryptedKey,
				},
				&provisioner.ACME{Type: "ACME", Name: ACMEName},
			},
		},
	}
	settings.Init()
	made, err := authority.New(settings,
		authority.WithPassword(found.password), authority.WithDatabase(database), authority.WithQuietInit())
	if err != nil {
		return nil, fmt.Errorf("start the embedded CA: %w", err)
	}
	return made, nil
}

// serverNames lists the names under which the authority's own certificate is valid: the one it listens
// on first, because that is what its links and tokens name.
func serverNames(host string) []string {
	names := []string{host}
	for _, name := range []string{"127.0.0.1", "::1", "localhost"} {
		if name != host {
			names = append(names, name)
		}
	}
	return names
}

// renewAhead is how long before its end the authority renews its own server certificate, which step-ca
// makes for 24 hours.
const renewAhead = 8 * time.Hour
