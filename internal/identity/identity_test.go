package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

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

func openAuthority(t *testing.T, dir string, clock *clock) *Authority {
	t.Helper()
	authority, err := OpenAuthority(AuthorityConfig{Dir: dir, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

func newSource(t *testing.T, authority *Authority, name string, clock *clock, files Files) *Source {
	t.Helper()
	source, err := NewSource(t.Context(), SourceConfig{Name: name, Renewer: authority.Renewer(name), Files: files, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// serve answers every connection with the name of its peer.
func serve(t *testing.T, config *tls.Config) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				state := conn.(*tls.Conn)
				if err := state.Handshake(); err != nil {
					return
				}
				connection := state.ConnectionState()
				name, err := Peer(&connection)
				if err != nil {
					return
				}
				io.WriteString(conn, name)
			}()
		}
	}()
	return listener.Addr().String()
}

// exchange connects and reads the answer: with TLS 1.3 a client learns only then that it was refused.
func exchange(address string, config *tls.Config) (string, *x509.Certificate, error) {
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) == 0 {
		err = errors.New("connection closed without an answer")
	}
	return string(answer), conn.ConnectionState().PeerCertificates[0], err
}

func TestOnlyWelcomeIdentitiesConnect(t *testing.T) {
	clock := newClock()
	authority, foreign := openAuthority(t, t.TempDir(), clock), openAuthority(t, t.TempDir(), clock)
	engine := newSource(t, authority, "engine", clock, Files{})
	control := newSource(t, authority, "control", clock, Files{})
	stranger := newSource(t, foreign, "control", clock, Files{})

	withoutCertificate := control.TLSClient("engine")
	withoutCertificate.GetClientCertificate = nil
	stolenTrust := stranger.TLSClient("engine") // a foreign certificate, but it trusts the engine
	stolenTrust.VerifyConnection = nil
	old := control.TLSClient("engine")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12

	tests := map[string]struct {
		server *tls.Config
		client *tls.Config
		want   string // the peer's name; empty means refused
	}{
		"an identity of the CA connects":                        {engine.TLSServer(), control.TLSClient("engine"), "control"},
		"a named identity connects":                             {engine.TLSServer("observe", "control"), control.TLSClient("engine"), "control"},
		"an identity that is not named is refused":              {engine.TLSServer("observe"), control.TLSClient("engine"), ""},
		"a client without a certificate is refused":             {engine.TLSServer(), withoutCertificate, ""},
		"a certificate of a foreign CA is refused":              {engine.TLSServer(), stolenTrust, ""},
		"TLS 1.2 is refused":                                    {engine.TLSServer(), old, ""},
		"a server of a foreign CA is refused":                   {stranger.TLSServer(), control.TLSClient("control"), ""},
		"another identity cannot stand in for the server's":     {newSource(t, authority, "observe", clock, Files{}).TLSServer(), control.TLSClient("engine"), ""},
		"a certificate for a longer name is not the shorter's":  {newSource(t, authority, "engine/web1", clock, Files{}).TLSServer(), control.TLSClient("engine"), ""},
		"an identity narrowed to a host connects with its name": {engine.TLSServer(), newSource(t, authority, "privileged/web1", clock, Files{}).TLSClient("engine"), "privileged/web1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, _, err := exchange(serve(t, test.server), test.client)
			if (err == nil) != (test.want != "") || got != test.want {
				t.Errorf("got peer %q, error %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestSecondConnectionIsNotResumed(t *testing.T) {
	clock := newClock()
	authority := openAuthority(t, t.TempDir(), clock)
	address := serve(t, newSource(t, authority, "engine", clock, Files{}).TLSServer())
	config := newSource(t, authority, "control", clock, Files{}).TLSClient("engine")
	config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 3 {
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			t.Fatal(err)
		}
		io.ReadAll(conn)
		if conn.ConnectionState().DidResume {
			t.Error("connection was resumed, want a full handshake each time")
		}
		conn.Close()
	}
}

// Both ends renew many times while requests run on kept and on fresh connections: none may fail.
func TestRenewalDropsNoRequest(t *testing.T) {
	clock := newClock()
	authority := openAuthority(t, t.TempDir(), clock)
	engine, control := newSource(t, authority, "engine", clock, Files{}), newSource(t, authority, "control", clock, Files{})

	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, err := Peer(r.TLS)
		if err != nil {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(w, name)
	}))
	server.Listener = tls.NewListener(server.Listener, engine.TLSServer())
	server.Start()
	defer server.Close()
	target := "https://" + server.Listener.Addr().String()

	kept := &http.Client{Transport: &http.Transport{TLSClientConfig: control.TLSClient("engine")}}
	fresh := &http.Client{Transport: &http.Transport{TLSClientConfig: control.TLSClient("engine"), DisableKeepAlives: true}}
	seen := map[string]bool{}
	for range 12 {
		for range 3 {
			for kind, client := range map[string]*http.Client{"kept": kept, "fresh": fresh} {
				response, err := client.Get(target)
				if err != nil {
					t.Fatalf("request on a %s connection: %v", kind, err)
				}
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				if got, want := string(body), "control"; got != want {
					t.Fatalf("request on a %s connection: peer is %q, want %q", kind, got, want)
				}
				if kind == "fresh" {
					seen[response.TLS.PeerCertificates[0].SerialNumber.String()] = true
				}
			}
		}
		clock.Advance(DefaultLife * 3 / 4)
		if err := errors.Join(engine.Tick(t.Context()), control.Tick(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) < 12 {
		t.Errorf("fresh connections saw %d certificates, want one per renewal (12)", len(seen))
	}
}

func TestEverythingExpiredRecovers(t *testing.T) {
	clock := newClock()
	dir, published := t.TempDir(), t.TempDir()
	authority := openAuthority(t, dir, clock)
	files := FilesIn(published, "privileged")
	publisher := newSource(t, authority, "privileged", clock, files)
	engine := newSource(t, authority, "engine", clock, Files{})
	worker, err := NewSource(t.Context(), SourceConfig{Name: "privileged", Files: files, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, engine.TLSServer())
	if got, _, err := exchange(address, worker.TLSClient("engine")); err != nil || got != "privileged" {
		t.Fatalf("before expiry: peer %q, error %v", got, err)
	}

	clock.Advance(30 * DefaultLife) // the machine was off

	if _, _, err := exchange(address, worker.TLSClient("engine")); err == nil {
		t.Fatal("an expired certificate was accepted")
	}
	late, err := NewSource(t.Context(), SourceConfig{Name: "privileged", Files: files, Now: clock.Now})
	if err != nil {
		t.Fatalf("a worker must start with an expired certificate and wait: %v", err)
	}
	if err := publisher.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]*Source{"running worker": worker, "worker started while expired": late} {
		if got, _, err := exchange(address, source.TLSClient("engine")); err != nil || got != "privileged" {
			t.Errorf("%s: peer %q, error %v after the refresh", name, got, err)
		}
	}

	clock.Advance(30 * DefaultLife)
	again := openAuthority(t, dir, clock) // a new start of everything
	engine, control := newSource(t, again, "engine", clock, Files{}), newSource(t, again, "control", clock, Files{})
	if got, _, err := exchange(serve(t, engine.TLSServer()), control.TLSClient("engine")); err != nil || got != "control" {
		t.Errorf("start after all have expired: peer %q, error %v", got, err)
	}
}

func TestFileWorkerKeepsItsCertificateWhenFilesBreak(t *testing.T) {
	clock := newClock()
	authority := openAuthority(t, t.TempDir(), clock)
	files := FilesIn(t.TempDir(), "observe")
	publisher := newSource(t, authority, "observe", clock, files)
	worker, err := NewSource(t.Context(), SourceConfig{Name: "observe", Files: files, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, newSource(t, authority, "engine", clock, Files{}).TLSServer())
	_, _, err = exchange(address, worker.TLSClient("engine"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.Pair, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _, err := exchange(address, worker.TLSClient("engine")); err != nil || got != "observe" {
		t.Errorf("with broken files: peer %q, error %v; want the previous certificate to stay", got, err)
	}
	if err := worker.Tick(t.Context()); err == nil {
		t.Error("broken files were not reported")
	}
	if err := publisher.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := worker.Tick(t.Context()); err != nil {
		t.Errorf("after repair: %v", err)
	}
	if got, want := worker.NotAfter(), publisher.NotAfter(); !got.Equal(want) {
		t.Errorf("after repair: certificate ends %v, want %v", got, want)
	}
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	clock := newClock()
	dir, published := t.TempDir(), t.TempDir()
	newSource(t, openAuthority(t, dir, clock), "privileged/web1", clock, FilesIn(published, "privileged/web1"))
	for _, path := range []string{filepath.Join(dir, "root.pem"), filepath.Join(published, "privileged", "web1", "identity.pem")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode().Perm(), os.FileMode(0o600); got != want {
			t.Errorf("%s has mode %v, want %v", filepath.Base(path), got, want)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if strings.HasPrefix(entry.Name(), ".") {
				t.Errorf("temporary file %q was left behind", entry.Name())
			}
		}
	}
	// The public tools read certificate and key from the one file.
	pair := FilesIn(published, "privileged/web1").Pair
	if _, err := tls.LoadX509KeyPair(pair, pair); err != nil {
		t.Errorf("load combined file: %v", err)
	}
}

func TestRootStaysAndIsReplacedInTime(t *testing.T) {
	clock := newClock()
	dir := t.TempDir()
	first := openAuthority(t, dir, clock)
	if diff := cmp.Diff(string(first.Roots()), string(openAuthority(t, dir, clock).Roots())); diff != "" {
		t.Errorf("second start changed the root (-first +second):\n%s", diff)
	}
	clock.Advance(rootLife - rootReserve + time.Hour)
	earlier := newSource(t, first, "control", clock, Files{})
	replaced := openAuthority(t, dir, clock)
	if got, want := len(replaced.roots), 2; got != want {
		t.Fatalf("replaced authority trusts %d roots, want %d", got, want)
	}
	engine := newSource(t, replaced, "engine", clock, Files{})
	if got, _, err := exchange(serve(t, engine.TLSServer()), func() *tls.Config {
		config := earlier.TLSClient("engine")
		config.VerifyConnection = nil // it learns of the root with its next renewal
		return config
	}()); err != nil || got != "control" {
		t.Errorf("certificate under the previous root: peer %q, error %v", got, err)
	}
}

func TestRenewalMomentIsPickedOnce(t *testing.T) {
	clock := newClock()
	authority := openAuthority(t, t.TempDir(), clock)
	for _, random := range []float64{0, 0.5, 0.999} {
		source, err := NewSource(t.Context(), SourceConfig{Name: "control", Renewer: authority.Renewer("control"), Now: clock.Now, Random: func() float64 { return random }})
		if err != nil {
			t.Fatal(err)
		}
		leaf := source.current.certificate.Leaf
		life := leaf.NotAfter.Sub(leaf.NotBefore)
		at := source.current.renewAt
		if at.Before(leaf.NotBefore.Add(life/2)) || at.After(leaf.NotBefore.Add(life*2/3)) {
			t.Errorf("random %v: renewal at %v of life %v, want between half and two thirds", random, at.Sub(leaf.NotBefore), life)
		}
		serial := leaf.SerialNumber
		if err := source.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		if source.current.certificate.Leaf.SerialNumber.Cmp(serial) != 0 || !source.current.renewAt.Equal(at) {
			t.Errorf("random %v: a look before the due moment renewed or moved it", random)
		}
	}
}

func TestFailedRenewalKeepsTheCertificate(t *testing.T) {
	clock := newClock()
	authority := openAuthority(t, t.TempDir(), clock)
	down := false
	source, err := NewSource(t.Context(), SourceConfig{Name: "control", Now: clock.Now, Renewer: func(ctx context.Context, request []byte) (Issued, error) {
		if down {
			return Issued{}, errors.New("issuer is down")
		}
		return authority.Renewer("control")(ctx, request)
	}})
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, newSource(t, authority, "engine", clock, Files{}).TLSServer())
	down = true
	clock.Advance(DefaultLife * 3 / 4)
	if err := source.Tick(t.Context()); err == nil {
		t.Error("a failed renewal was not reported")
	}
	if got, _, err := exchange(address, source.TLSClient("engine")); err != nil || got != "control" {
		t.Errorf("while the issuer is down: peer %q, error %v", got, err)
	}
}

func TestSourceRefusesWhatIsNotItsOwn(t *testing.T) {
	clock := newClock()
	authority := openAuthority(t, t.TempDir(), clock)
	files := FilesIn(t.TempDir(), "observe")
	newSource(t, authority, "observe", clock, files)
	if _, err := NewSource(t.Context(), SourceConfig{Name: "privileged", Files: files, Now: clock.Now}); err == nil {
		t.Error("files of another identity were accepted")
	}
	if _, err := NewSource(t.Context(), SourceConfig{Name: "privileged", Renewer: authority.Renewer("observe"), Now: clock.Now}); err == nil {
		t.Error("a certificate for another identity was accepted")
	}
	if _, err := NewSource(t.Context(), SourceConfig{Name: "privileged"}); err == nil {
		t.Error("a source without files and renewer was accepted")
	}
}

func TestPeerReadsExactlyOneIdentity(t *testing.T) {
	link := func(text string) *url.URL {
		parsed, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	tests := map[string]struct {
		uris []*url.URL
		want string
	}{
		"one identity":                   {[]*url.URL{link("castellan://identity/control")}, "control"},
		"an identity beside another URI": {[]*url.URL{link("spiffe://a/b"), link("castellan://identity/observe")}, "observe"},
		"narrowed to a host":             {[]*url.URL{nameURI("privileged/web1")}, "privileged/web1"},
		"two identities":                 {[]*url.URL{link("castellan://identity/control"), link("castellan://identity/dev")}, ""},
		"no identity":                    {[]*url.URL{link("spiffe://a/b")}, ""},
		"another authority":              {[]*url.URL{link("castellan://other/control")}, ""},
		"a name that climbs":             {[]*url.URL{link("castellan://identity/a/../b")}, ""},
		"an empty name":                  {[]*url.URL{link("castellan://identity/")}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Peer(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{URIs: test.uris}}}})
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, error %v; want %q", got, err, test.want)
			}
		})
	}
	if _, err := Peer(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{{URIs: []*url.URL{nameURI("control")}}}}); err == nil {
		t.Error("a certificate that was shown but not verified counted as an identity")
	}
}

func TestRunRenewsByItself(t *testing.T) {
	authority, err := OpenAuthority(AuthorityConfig{Dir: t.TempDir(), Life: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	source, err := NewSource(t.Context(), SourceConfig{Name: "control", Renewer: authority.Renewer("control")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx) }()
	start := source.NotAfter()
	for source.NotAfter().Equal(start) {
		time.Sleep(5 * time.Millisecond) // the poll of a condition
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run ended with %v", err)
	}
}

// TestRemoteSourceBeginsWithItsFiles has a renewer that counts: it is asked when a renewal is due, and
// neither before nor after the certificate has expired.
func TestRemoteSourceBeginsWithItsFiles(t *testing.T) {
	clock := newClock()
	authority := openAuthority(t, t.TempDir(), clock)
	files := FilesIn(t.TempDir(), "control")
	publisher := newSource(t, authority, "control", clock, files)
	asked := 0
	renewer := func(ctx context.Context, request []byte) (Issued, error) {
		asked++
		return authority.Renewer("control")(ctx, request)
	}
	config := SourceConfig{Name: "control", Files: files, Remote: true, Renewer: renewer, Now: clock.Now}
	worker, err := NewSource(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	twin, err := NewSource(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	tick := func(source *Source, want int, when string) {
		t.Helper()
		if err := source.Tick(t.Context()); err != nil || asked != want {
			t.Fatalf("%s: asked %d times, error %v, want %d times", when, asked, err, want)
		}
	}
	tick(worker, 0, "before it is due")
	clock.Advance(DefaultLife * 3 / 4)
	tick(worker, 1, "when it is due")
	tick(twin, 1, "when another process has renewed the files")
	if got, want := twin.NotAfter(), worker.NotAfter(); !got.Equal(want) {
		t.Errorf("the twin's certificate ends %v, want %v", got, want)
	}

	clock.Advance(2 * DefaultLife)
	if err := worker.Tick(t.Context()); !errors.Is(err, ErrExpired) || asked != 1 {
		t.Errorf("after expiry: got %v, asked %d times, want ErrExpired and nobody asked", err, asked)
	}
	if err := publisher.Renew(t.Context()); err != nil { // a person replaces the files
		t.Fatal(err)
	}
	tick(worker, 1, "after the files were replaced")
}

func TestRemoteSourceUsesWhatItCannotWrite(t *testing.T) {
	clock := newClock()
	authority := openAuthority(t, t.TempDir(), clock)
	files := FilesIn(t.TempDir(), "control")
	newSource(t, authority, "control", clock, files)
	worker, err := NewSource(t.Context(), SourceConfig{Name: "control", Files: files, Remote: true, Renewer: authority.Renewer("control"), Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	worker.config.Files.Roots = filepath.Join(files.Pair, "below-a-file", "ca.pem") // cannot be written, whoever runs the test
	before := worker.NotAfter()
	clock.Advance(DefaultLife * 3 / 4)
	if err := worker.Renew(t.Context()); err == nil {
		t.Error("a file that cannot be written was not reported")
	}
	if !worker.NotAfter().After(before) {
		t.Error("the renewed certificate was thrown away")
	}
}
