package installation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/api"
	"castellan.dev/internal/config"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/ledger"
	"castellan.dev/internal/serve"
	"castellan.dev/internal/servicedb"
	"castellan.dev/internal/state"
)

const life = 10 * time.Second

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// heart is the API of an installation over real TLS, with a real ledger and an authority.
type heart struct {
	clock     *clock
	authority *identity.Authority
	source    *identity.Source // of the server
	url       string
	dir       string // identities that were copied to the worker's machine
}

func startHeart(t *testing.T) *heart {
	t.Helper()
	h := &heart{clock: &clock{now: time.Now()}, dir: t.TempDir()}
	var err error
	h.authority, err = identity.OpenAuthority(identity.AuthorityConfig{Dir: t.TempDir(), Life: life, Now: h.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	h.source = h.issue(t, identity.Serve, identity.Files{})
	database, err := servicedb.Open(t.Context(), servicedb.Config{Kind: servicedb.KindSQLite, Path: filepath.Join(t.TempDir(), "service.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { database.Close() })
	place, err := ledger.NewDirectory(filepath.Join(t.TempDir(), "checkpoints"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := ledger.Open(t.Context(), database, ledger.Options{
		KeyFile: filepath.Join(t.TempDir(), "ledger.key"), Place: place, Interval: -1, Now: h.clock.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(context.Background()) })
	server := &api.Server{
		Evidence: log.Handler(api.Caller), Authority: h.authority, RoleOf: serve.RoleOf, Now: h.clock.Now, Logger: slog.New(slog.DiscardHandler),
		ChangeKey: func(ctx context.Context, actor, reason string) (string, error) {
			key, err := log.ChangeKey(ctx, actor, reason)
			return key.String(), err
		},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	running := &http.Server{Handler: server.Handler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	go running.Serve(tls.NewListener(listener, h.source.TLSServer()))
	t.Cleanup(func() { running.Close() })
	h.url = "https://" + listener.Addr().String()
	return h
}

// issue makes an identity as `castellan identity issue` does.
func (h *heart) issue(t *testing.T, name string, files identity.Files) *identity.Source {
	t.Helper()
	source, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: name, Renewer: h.authority.Renewer(name), Files: files, Now: h.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// worker is an installation on another machine, to which the identity was copied.
func (h *heart) worker(t *testing.T, name string) *installation.Installation {
	t.Helper()
	h.issue(t, name, identity.FilesIn(h.dir, name))
	return &installation.Installation{
		Config: &config.Config{API: config.API{PublicURL: h.url, IdentityDir: h.dir}}, Dir: state.Dir(t.TempDir()),
		Now: h.clock.Now, Logger: slog.New(slog.DiscardHandler),
	}
}

func TestIdentitiesAreRenewedWhileRequestsRun(t *testing.T) {
	h := startHeart(t)
	i := h.worker(t, "privileged/web-1")
	recorder, err := i.Recorder(t.Context(), "privileged/web-1")
	if err != nil {
		t.Fatal(err)
	}
	source, err := i.Identity(t.Context(), "privileged/web-1")
	if err != nil {
		t.Fatal(err)
	}
	fresh := &http.Client{Transport: &http.Transport{TLSClientConfig: source.TLSClient(identity.Serve), DisableKeepAlives: true}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := errors.Join(i.Renew(ctx)); err != nil {
			t.Error(err)
		}
	})
	requests := 0
	request := func() {
		requests++
		if _, err := recorder.Append(ctx, record.Entry{
			Workflow: "rotate/payments", Run: "run-1", Step: "rotate.mint", Target: "payments", Rotation: "payments@1",
			Epoch: activities.Epoch(requests), Phase: record.Intent, At: h.clock.Now(),
		}); err != nil {
			t.Fatalf("request %d: %v", requests, err)
		}
		response, err := fresh.Get(h.url + "/nothing")
		if err != nil {
			t.Fatalf("request %d on a fresh connection: %v", requests, err)
		}
		response.Body.Close()
	}
	for round := range 6 {
		before := source.NotAfter()
		h.clock.Advance(life * 7 / 10) // due, and not yet expired
		if err := h.source.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); !source.NotAfter().After(before); {
			request()
			if time.Now().After(deadline) {
				t.Fatalf("round %d: the identity was never renewed", round)
			}
		}
		request()
	}

	// What was renewed lies in the files: a start that follows needs nobody.
	again, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: "privileged/web-1", Files: identity.FilesIn(h.dir, "privileged/web-1"), Now: h.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := again.NotAfter(), source.NotAfter(); !got.Equal(want) {
		t.Errorf("the files' certificate ends %v, want %v", got, want)
	}
}

func TestRefreshRenewsWhenThatIsDue(t *testing.T) {
	h := startHeart(t)
	i := h.worker(t, "operator")
	source, err := i.Identity(t.Context(), "operator")
	if err != nil {
		t.Fatal(err)
	}
	first := source.NotAfter()
	refresh := func() time.Time {
		t.Helper()
		if err := i.Refresh(t.Context(), "operator"); err != nil {
			t.Fatal(err)
		}
		return source.NotAfter()
	}
	if got := refresh(); !got.Equal(first) {
		t.Errorf("before it is due: certificate ends %v, want %v still", got, first)
	}
	h.clock.Advance(life * 7 / 10)
	if got := refresh(); !got.After(first) {
		t.Errorf("when it is due: certificate ends %v, want later than %v", got, first)
	}

	gone := h.worker(t, "control")
	gone.Config.API.PublicURL = "https://127.0.0.1:1"
	if _, err := gone.Identity(t.Context(), "control"); err != nil {
		t.Fatal(err)
	}
	h.clock.Advance(life * 7 / 10)
	if err := gone.Refresh(t.Context(), "control"); err != nil {
		t.Errorf("while nobody answers: got %v, want the certificate that still holds", err)
	}
}

func TestExpiredIdentitySaysHowToGetAnother(t *testing.T) {
	h := startHeart(t)
	i := h.worker(t, "operator")
	client, err := i.API(t.Context(), "operator")
	if err != nil {
		t.Fatal(err)
	}
	h.clock.Advance(2 * life)
	_, err = client.ChangeKey(t.Context(), "a reason")
	for want, err := range map[string]error{"a request": err, "a refresh": i.Refresh(t.Context(), "operator")} {
		if !errors.Is(err, identity.ErrExpired) || !strings.Contains(err.Error(), "castellan identity issue operator") {
			t.Errorf("%s: got %v, want the command that issues another", want, err)
		}
	}

	h.issue(t, "operator", identity.FilesIn(h.dir, "operator")) // somebody follows the advice
	if err := i.Refresh(t.Context(), "operator"); err != nil {
		t.Error(err)
	}
	if _, err := client.ChangeKey(t.Context(), "a reason"); err != nil {
		t.Errorf("with the files replaced: %v", err)
	}
}

func TestNobodyIsRenewedUnderAnotherName(t *testing.T) {
	h := startHeart(t)
	client, err := h.worker(t, "observe").API(t.Context(), "observe")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri := &url.URL{Scheme: "castellan", Host: "identity", Path: "/operator"}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "operator"}, URIs: []*url.URL{uri}, DNSNames: []string{"operator"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := client.RenewIdentity(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(issued.Chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "castellan://identity/observe" || leaf.Subject.CommonName != "observe" {
		t.Errorf("got a certificate for %v, %v, want one for the caller, observe", leaf.Subject, leaf.URIs)
	}
	if _, err := client.ChangeKey(t.Context(), "a reason"); activities.KindOf(err) != activities.Denied {
		t.Errorf("a zone changes the ledger's key: got %v, want it denied", err)
	}
}

func TestRenewalIsRefused(t *testing.T) {
	request := func(t *testing.T) []byte {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	connect := func(h *heart, config *tls.Config) *api.Client {
		return api.NewClient(h.url, &http.Client{Transport: &http.Transport{TLSClientConfig: config}})
	}
	tests := map[string]struct {
		ask  func(t *testing.T, h *heart) error
		want activities.Kind
	}{
		"a stranger of another authority": {func(t *testing.T, h *heart) error {
			other := startHeart(t)
			config := other.issue(t, "control", identity.Files{}).TLSClient(identity.Serve)
			config.VerifyConnection = nil // the stranger trusts us; we must not trust the stranger
			_, err := connect(h, config).RenewIdentity(t.Context(), request(t))
			return err
		}, activities.Transient},
		"a stranger without a certificate": {func(t *testing.T, h *heart) error {
			_, err := connect(h, &tls.Config{InsecureSkipVerify: true}).RenewIdentity(t.Context(), request(t))
			return err
		}, activities.Transient},
		"a connection that outlives its certificate": {func(t *testing.T, h *heart) error {
			client := connect(h, h.issue(t, "control", identity.Files{}).TLSClient(identity.Serve))
			if _, err := client.RenewIdentity(t.Context(), request(t)); err != nil {
				t.Fatal(err)
			}
			h.clock.Advance(2 * life)
			_, err := client.RenewIdentity(t.Context(), request(t))
			return err
		}, activities.Denied},
		"a large request": {func(t *testing.T, h *heart) error {
			_, err := connect(h, h.issue(t, "control", identity.Files{}).TLSClient(identity.Serve)).RenewIdentity(t.Context(), make([]byte, 64<<10))
			return err
		}, activities.Invalid},
		"a key of another kind": {func(t *testing.T, h *heart) error {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
			if err != nil {
				t.Fatal(err)
			}
			_, err = connect(h, h.issue(t, "control", identity.Files{}).TLSClient(identity.Serve)).RenewIdentity(t.Context(), der)
			return err
		}, activities.Invalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := test.ask(t, startHeart(t)); err == nil || activities.KindOf(err) != test.want {
				t.Errorf("got %v, want an error of kind %s", err, test.want)
			}
		})
	}
}

func TestServeRenewsByTheAuthorityThatItHolds(t *testing.T) {
	c := &clock{now: time.Now()}
	open := func(dir string) *installation.Installation {
		return &installation.Installation{Config: new(config.Config), Dir: state.Dir(dir), Now: c.Now, Logger: slog.New(slog.DiscardHandler)}
	}
	dir := t.TempDir()
	if _, err := open(dir).Identity(t.Context(), identity.Serve); err == nil || !strings.Contains(err.Error(), "castellan identity init") {
		t.Fatalf("without identities: got %v, want the command that makes them", err)
	}
	if held, err := open(dir).Authority(); held != nil || err != nil {
		t.Fatalf("looking for an authority made one: %v, %v", held, err)
	}
	if _, err := open(dir).MakeAuthority(); err != nil {
		t.Fatal(err)
	}
	source, err := open(dir).Identity(t.Context(), identity.Serve)
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(2 * installation.IdentityLife)
	if err := source.Tick(t.Context()); err != nil || !source.NotAfter().After(c.Now()) {
		t.Errorf("after expiry: certificate ends %v, error %v", source.NotAfter(), err)
	}
	if info, err := os.Stat(filepath.Join(dir, "identity", "serve", "identity.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a file of mode 0600", info, err)
	}
}
