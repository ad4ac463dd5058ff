package stepca_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities/issue/stepca"
	"castellan.dev/internal/ca"
	"castellan.dev/testsuite/conformance"
	"castellan.dev/testsuite/fault"
)

func TestConformance(t *testing.T) {
	authority := startCA(t, t.TempDir())
	conformance.RunIssuer(t, func(t *testing.T) conformance.IssuerFixture {
		proxy := newProxy(t, authority.URL())
		config := configure(authority, "https://"+proxy.Address())
		foreign := config
		foreign.PasswordFile = file(t, "wrong-password", "not-the-provisioners-password")
		return conformance.IssuerFixture{
			Issuer:  newIssuer(t, config),
			Foreign: newIssuer(t, foreign),
			Proxy:   proxy,
			Granted: 30 * time.Minute,
			Secrets: []string{contentOf(t, authority.PasswordFile()), "not-the-provisioners-password"},
		}
	})
}

func startCA(t *testing.T, dir string) *ca.CA {
	t.Helper()
	return startCAAt(t, dir, "127.0.0.1:0")
}

func startCAAt(t *testing.T, dir, listen string) *ca.CA {
	t.Helper()
	authority, err := ca.Start(t.Context(), ca.Config{Dir: dir, Listen: listen, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopCA(t, authority) })
	return authority
}

func stopCA(t *testing.T, authority *ca.CA) {
	t.Helper()
	select {
	case <-authority.Done():
		return
	default:
	}
	if err := authority.Stop(context.Background()); err != nil {
		t.Errorf("stop CA: %v", err)
	}
}

func newProxy(t *testing.T, address string) *fault.Proxy {
	t.Helper()
	proxy, err := fault.New(strings.TrimPrefix(address, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	return proxy
}

func configure(authority *ca.CA, address string) stepca.Config {
	return stepca.Config{
		URL:          address,
		Root:         authority.RootFile(),
		Provisioner:  authority.Provisioner(),
		PasswordFile: authority.PasswordFile(),
	}
}

func newIssuer(t *testing.T, config stepca.Config) *stepca.Issuer {
	t.Helper()
	issuer, err := stepca.New(config, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func contentOf(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}
