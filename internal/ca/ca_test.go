package ca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	stepapi "github.com/smallstep/certificates/api"
	"github.com/smallstep/certificates/authority/provisioner"
	stepca "github.com/smallstep/certificates/ca"

	"castellan.dev/internal/ca"
)

func start(t *testing.T, config ca.Config) *ca.CA {
	t.Helper()
	running, err := ca.Start(t.Context(), quiet(config))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, running) })
	return running
}

func stop(t *testing.T, running *ca.CA) {
	t.Helper()
	select {
	case <-running.Done():
		return
	default:
	}
	if err := running.Stop(context.Background()); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func quiet(config ca.Config) ca.Config {
	if config.Listen == "" {
		config.Listen = "127.0.0.1:0"
	}
	config.Log = slog.New(slog.DiscardHandler)
	return config
}

// client is smallstep's own client, so that the tests speak to the authority as any step tool would.
func client(t *testing.T, running *ca.CA) *stepca.Provisioner {
	t.Helper()
	password, err := os.ReadFile(running.PasswordFile())
	if err != nil {
		t.Fatal(err)
	}
	made, err := stepca.NewProvisioner(running.Provisioner(), "", running.URL(), password, stepca.WithRootFile(running.RootFile()))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func issue(t *testing.T, running *ca.CA, name string, lifetime time.Duration) *x509.Certificate {
	t.Helper()
	client := client(t, running)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	token, err := client.Token(name)
	if err != nil {
		t.Fatal(err)
	}
	request := &stepapi.SignRequest{CsrPEM: stepapi.NewCertificateRequest(csr), OTT: token}
	if lifetime > 0 {
		request.NotAfter = provisioner.NewTimeDuration(time.Now().Add(lifetime))
	}
	response, err := client.Sign(request)
	if err != nil {
		t.Fatalf("sign %q: %v", name, err)
	}
	return response.ServerPEM.Certificate
}

func revoke(t *testing.T, running *ca.CA, serial *big.Int) {
	t.Helper()
	client := client(t, running)
	client.SetAudience(running.URL() + "/1.0/revoke")
	token, err := client.Token(serial.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Revoke(&stepapi.RevokeRequest{Serial: serial.String(), OTT: token, ReasonCode: 1, Passive: true}, nil); err != nil {
		t.Fatalf("revoke: %v", err)
	}
}

func revocations(t *testing.T, body io.Reader) *x509.RevocationList {
	t.Helper()
	raw, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(raw)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func contains(list *x509.RevocationList, serial *big.Int) bool {
	for _, entry := range list.RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(serial) == 0 {
			return true
		}
	}
	return false
}

func fetch(t *testing.T, running *ca.CA, url string) *http.Response {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: running.TLSConfig(), DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func TestARestartContinuesWithTheSameAuthority(t *testing.T) {
	dir := t.TempDir()
	first := start(t, ca.Config{Dir: dir})
	before := issue(t, first, "before.example", 0)
	stop(t, first)

	second := start(t, ca.Config{Dir: dir})
	if !second.Root().Equal(first.Root()) {
		t.Error("the restarted authority has another root")
	}
	after := issue(t, second, "after.example", 0)
	if !second.Root().Equal(first.Root()) || string(before.AuthorityKeyId) != string(after.AuthorityKeyId) {
		t.Error("the restarted authority signs with another intermediate")
	}

	revoke(t, second, before.SerialNumber)
	list := revocations(t, fetch(t, second, second.CRLURL()).Body)
	if !contains(list, before.SerialNumber) {
		t.Error("the CRL lacks the revoked serial right after the revocation")
	}
	if contains(list, after.SerialNumber) {
		t.Error("the CRL holds a serial that was not revoked")
	}
	stop(t, second)

	third := start(t, ca.Config{Dir: dir})
	recorder := httptest.NewRecorder()
	third.CRL().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/crl", nil))
	restarted := revocations(t, recorder.Body)
	if !contains(restarted, before.SerialNumber) {
		t.Error("the restart forgot a revocation")
	}
	if restarted.Number.Cmp(list.Number) <= 0 {
		t.Errorf("CRL number %v after %v: it must grow", restarted.Number, list.Number)
	}
}

func TestLifetimes(t *testing.T) {
	running := start(t, ca.Config{Dir: t.TempDir()})
	for name, want := range map[string]time.Duration{
		"half a minute": 30 * time.Second,
		"two minutes":   2 * time.Minute,
		"ninety days":   90 * 24 * time.Hour,
		"by default":    0,
	} {
		t.Run(name, func(t *testing.T) {
			earliest := time.Now()
			leaf := issue(t, running, "lifetime.example", want)
			if want == 0 {
				want = 24 * time.Hour
			}
			if leaf.NotAfter.Before(earliest.Add(want-time.Second)) || leaf.NotAfter.After(time.Now().Add(want+time.Second)) {
				t.Errorf("asked for %s at %s, the leaf ends at %s", want, earliest, leaf.NotAfter)
			}
			intermediates := x509.NewCertPool()
			intermediates.AddCert(intermediate(t, running))
			roots := x509.NewCertPool()
			roots.AddCert(running.Root())
			if _, err := leaf.Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: intermediates, DNSName: "lifetime.example", CurrentTime: leaf.NotBefore,
			}); err != nil {
				t.Errorf("verify at the leaf's first moment: %v", err)
			}
		})
	}
}

func intermediate(t *testing.T, running *ca.CA) *x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(running.URL(), "https://"), running.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[1]
}

func TestACMEIsServed(t *testing.T) {
	running := start(t, ca.Config{Dir: t.TempDir()})
	response := fetch(t, running, running.ACMEDirectory())
	var directory struct {
		NewNonce string `json:"newNonce"`
		NewOrder string `json:"newOrder"`
	}
	if err := json.NewDecoder(response.Body).Decode(&directory); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(directory.NewOrder, running.URL()+"/acme/") {
		t.Errorf("got new-order %q, want it under %s", directory.NewOrder, running.URL())
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: running.TLSConfig(), DisableKeepAlives: true}}
	nonce, err := client.Head(directory.NewNonce)
	if err != nil {
		t.Fatal(err)
	}
	_ = nonce.Body.Close()
	if nonce.Header.Get("Replay-Nonce") == "" {
		t.Errorf("no nonce: %s", nonce.Status)
	}
}

func TestKeysAreTheOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	running := start(t, ca.Config{Dir: dir})
	stop(t, running)
	keys := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s has mode %04o, want 0600", path, got)
		}
		if strings.HasSuffix(path, ".key") {
			keys++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if keys != 2 {
		t.Errorf("found %d keys, want the root's and the intermediate's", keys)
	}
}

func TestTheProvisionersKeyIsHandedOutEncryptedOnly(t *testing.T) {
	running := start(t, ca.Config{Dir: t.TempDir()})
	var listing struct {
		Provisioners []struct {
			Type         string         `json:"type"`
			Key          map[string]any `json:"key"`
			EncryptedKey string         `json:"encryptedKey"`
		} `json:"provisioners"`
	}
	if err := json.NewDecoder(fetch(t, running, running.URL()+"/1.0/provisioners").Body).Decode(&listing); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, provisioner := range listing.Provisioners {
		if provisioner.Type != "JWK" {
			continue
		}
		found = true
		if provisioner.Key["d"] != nil {
			t.Error("the listing holds the private key")
		}
		if provisioner.EncryptedKey == "" {
			t.Error("the listing lacks the encrypted key that clients open with the password")
		}
	}
	if !found {
		t.Error("no JWK provisioner is listed")
	}
}

func TestKeysAreEncryptedWithTheConfiguredPassword(t *testing.T) {
	dir, password := t.TempDir(), filepath.Join(t.TempDir(), "password")
	setPassword := func(text string) {
		t.Helper()
		if err := os.WriteFile(password, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setPassword("correct horse\n")
	running := start(t, ca.Config{Dir: dir, PasswordFile: password})
	issue(t, running, "encrypted.example", 0)
	stop(t, running)
	for _, name := range []string{"root.key", "intermediate.key"} {
		content, err := os.ReadFile(filepath.Join(dir, "authority", name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(content), "ENCRYPTED") {
			t.Errorf("%s is not encrypted", name)
		}
	}
	setPassword("battery staple\n")
	_, err := ca.Start(t.Context(), quiet(ca.Config{Dir: dir, PasswordFile: password}))
	if err == nil || strings.Contains(err.Error(), "battery staple") {
		t.Errorf("wrong password: got %v", err)
	}
	_, err = ca.Start(t.Context(), quiet(ca.Config{Dir: dir}))
	if err == nil || !strings.Contains(err.Error(), "no password file is configured") {
		t.Errorf("no password: got %v", err)
	}
}

func TestStartRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		config  func(dir string) ca.Config
		prepare func(t *testing.T, dir string)
		want    string
	}{
		"every interface": {
			config: func(dir string) ca.Config { return ca.Config{Dir: dir, Listen: "0.0.0.0:0"} },
			want:   "not a loopback IP address",
		},
		"an address without a port": {
			config: func(dir string) ca.Config { return ca.Config{Dir: dir, Listen: "127.0.0.1"} },
			want:   "missing port",
		},
		"a directory in use": {
			prepare: func(t *testing.T, dir string) { start(t, ca.Config{Dir: dir}) },
			want:    "in use by another process",
		},
		"an expired intermediate": {
			prepare: once,
			config: func(dir string) ca.Config {
				return ca.Config{Dir: dir, Now: func() time.Time { return time.Now().AddDate(11, 0, 0) }}
			},
			want: "its intermediate certificate expired at",
		},
		"an expired root": {
			prepare: once,
			config: func(dir string) ca.Config {
				return ca.Config{Dir: dir, Now: func() time.Time { return time.Now().AddDate(21, 0, 0) }}
			},
			want: "its root certificate expired at",
		},
		"a clock before the root's time": {
			prepare: once,
			config: func(dir string) ca.Config {
				return ca.Config{Dir: dir, Now: func() time.Time { return time.Now().AddDate(-1, 0, 0) }}
			},
			want: "is not valid before",
		},
		"a key that others may read": {
			prepare: func(t *testing.T, dir string) {
				once(t, dir)
				if err := os.Chmod(filepath.Join(dir, "authority", "intermediate.key"), 0o644); err != nil {
					t.Fatal(err)
				}
			},
			want: "may be read by others",
		},
		"another authority's intermediate": {
			prepare: func(t *testing.T, dir string) {
				once(t, dir)
				other := t.TempDir()
				once(t, other)
				swapped := filepath.Join("authority", "intermediate.crt")
				if err := os.Rename(filepath.Join(other, swapped), filepath.Join(dir, swapped)); err != nil {
					t.Fatal(err)
				}
			},
			want: "is not the key of",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if test.prepare != nil {
				test.prepare(t, dir)
			}
			config := ca.Config{Dir: dir}
			if test.config != nil {
				config = test.config(dir)
			}
			running, err := ca.Start(t.Context(), quiet(config))
			if err == nil {
				_ = running.Stop(context.Background())
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want it to say %q", err, test.want)
			}
		})
	}
}

// once starts and stops an authority, so that its files exist.
func once(t *testing.T, dir string) {
	t.Helper()
	stop(t, start(t, ca.Config{Dir: dir}))
}

func TestAFirstStartThatCrashedLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	unfinished := filepath.Join(dir, "authority.unfinished-1")
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(unfinished, "root.key"), []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	once(t, dir)
	if _, err := os.Stat(unfinished); err == nil {
		t.Error("half an authority was left behind")
	}
}

func TestAFailedStartLeavesTheDirectoryFree(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := ca.Start(t.Context(), quiet(ca.Config{Dir: dir, Listen: taken.Addr().String()})); err == nil {
		t.Fatal("it started on a port that is taken")
	}
	once(t, dir)
}

func TestStopCutsWhatDoesNotEnd(t *testing.T) {
	running := start(t, ca.Config{Dir: t.TempDir()})
	conn, err := tls.Dial("tcp", strings.TrimPrefix(running.URL(), "https://"), running.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /1.0/sign HTTP/1.1\r\nHost: ca\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no patience at all
	if err := running.Stop(ctx); err != nil {
		t.Errorf("stop with a request in hand: %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlived the authority")
	}
	if err := running.Stop(t.Context()); err != nil {
		t.Errorf("stop again: %v", err)
	}
}

func TestAForeignClientCertificateIsRefused(t *testing.T) {
	running, foreign := start(t, ca.Config{Dir: t.TempDir()}), start(t, ca.Config{Dir: t.TempDir()})
	config := running.TLSConfig()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &config.Certificates[0], nil }
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	if response, err := client.Get(running.URL() + "/health"); err == nil {
		_ = response.Body.Close()
		t.Error("a self-signed client certificate was accepted")
	}
	if response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: foreign.TLSConfig()}}).Get(running.URL() + "/health"); err == nil {
		_ = response.Body.Close()
		t.Error("the authority's certificate is valid under another root")
	}
}
