package tlsprobe_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/verify/tlsprobe"
	"castellan.dev/testsuite/conformance"
	"castellan.dev/testsuite/servers/postgres"
)

// TestPostgreSQL probes a real server: one that still serves the previous certificate, then the
// candidate after a reload.
func TestPostgreSQL(t *testing.T) {
	b := newBench(t, nil)
	database := postgres.StartWith(t, postgres.Options{Certificate: b.previous.Chain, Key: b.previous.Key})
	b.config.Addresses, b.config.Prelude = []string{database.Address()}, "postgres"
	b.want(t, activities.UsesPrevious, "")
	database.SetCertificate(b.candidate.Chain, b.candidate.Key)
	database.Reload()
	limit := time.Now().Add(time.Minute)
	for b.look(t)[0].Standing != activities.UsesCandidate {
		if time.Now().After(limit) {
			t.Fatalf("after the reload: %+v", b.look(t))
		}
	}
	database.Kill()
	b.want(t, activities.Broken, "")
}

func TestPostgreSQLWithoutTLS(t *testing.T) {
	b := newBench(t, nil)
	b.config.Addresses, b.config.Prelude = []string{postgres.Start(t).Address()}, "postgres"
	b.want(t, activities.Broken, "has no TLS")
}

// TestPostgreSQLJudgesClients presents a client's certificate to a real server that checks it.
func TestPostgreSQLJudgesClients(t *testing.T) {
	b := newBench(t, nil)
	served := b.ca.Issue(t, "service.test")
	roots := write(t, "clients.pem", b.ca.Bundle())
	for path, mode := range map[string]os.FileMode{ // the server's own user reads it
		roots: 0o644, filepath.Dir(roots): 0o755, filepath.Dir(filepath.Dir(roots)): 0o755,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	database := postgres.StartWith(t, postgres.Options{
		Certificate: served.Chain, Key: served.Key, Settings: []string{"ssl_ca_file=" + roots},
	})
	b.config.Addresses, b.config.Prelude, b.config.Mode = []string{database.Address()}, "postgres", tlsprobe.ModeClient
	for name, c := range map[string]struct {
		client   conformance.Issued
		standing activities.Standing
		detail   string
	}{
		"the candidate":                        {b.candidate, activities.UsesCandidate, ""},
		"the previous":                         {b.previous, activities.UsesPrevious, ""},
		"a leaf of an authority unknown there": {conformance.NewAuthority(t, "foreign").Issue(t, "client"), activities.Broken, "refuses"},
	} {
		t.Run(name, func(t *testing.T) {
			b.config.Presents = &tlsprobe.Identity{CertificateFile: write(t, "tls.crt", c.client.Chain), KeyFile: write(t, "tls.key", c.client.Key)}
			b.want(t, c.standing, c.detail)
		})
	}
}
