package tlsprobe_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/verify"
	"castellan.dev/activities/verify/tlsprobe"
	"castellan.dev/testsuite/conformance"
)

func wantNoProblems(t *testing.T, c interface {
	Check(report func(field, value, want string))
}) {
	t.Helper()
	c.Check(func(field, value, want string) { t.Errorf("%s: %q is refused: want %s", field, value, want) })
}

func TestConformanceOfServers(t *testing.T) {
	conformance.RunVerifier(t, func(t *testing.T, ca *conformance.Authority) conformance.Watched {
		servers := []*server{listen(t, "127.0.0.1", nil), listen(t, "127.0.0.1", nil), listen(t, "127.0.0.1", nil)}
		config := tlsprobe.Config{Endpoints: tlsprobe.Endpoints{
			ServerName: "service.test", RootsFile: write(t, "ca.pem", ca.Bundle()), Quiet: 20 * time.Millisecond,
		}}
		nobody := tlsprobe.New(config, tlsprobe.Options{})
		for _, s := range servers {
			config.Addresses = append(config.Addresses, s.Address)
		}
		wantNoProblems(t, config)
		return conformance.Watched{
			Verifier:  tlsprobe.New(config, tlsprobe.Options{}),
			Nobody:    nobody,
			Addresses: len(servers),
			Use: func(issued conformance.Issued) {
				for _, s := range servers {
					s.use(issued)
				}
			},
			UseAt: func(i int, issued conformance.Issued) { servers[i].use(issued) },
			Stop:  func(i int) { servers[i].stop() },
		}
	})
}

func TestConformanceOfClients(t *testing.T) {
	conformance.RunVerifier(t, func(t *testing.T, ca *conformance.Authority) conformance.Watched {
		demanding := func(s *server) {
			s.clients = ca.Pool()
			s.leaves = []conformance.Issued{ca.Issue(t, "payments.test")}
		}
		servers := []*server{listen(t, "127.0.0.1", demanding), listen(t, "127.0.0.1", demanding)}
		presents := &tlsprobe.Identity{CombinedFile: filepath.Join(t.TempDir(), "client.pem")}
		config := tlsprobe.Config{
			Mode: tlsprobe.ModeClient, Presents: presents,
			Endpoints: tlsprobe.Endpoints{ServerName: "payments.test", RootsFile: write(t, "ca.pem", ca.Bundle()), Quiet: 100 * time.Millisecond},
		}
		nobody := tlsprobe.New(config, tlsprobe.Options{})
		for _, s := range servers {
			config.Addresses = append(config.Addresses, s.Address)
		}
		wantNoProblems(t, config)
		return conformance.Watched{
			Verifier:  tlsprobe.New(config, tlsprobe.Options{}),
			Nobody:    nobody,
			Addresses: len(servers),
			Use: func(issued conformance.Issued) {
				if err := os.WriteFile(presents.CombinedFile, append(append([]byte{}, issued.Key...), issued.Chain...), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			Stop: func(i int) { servers[i].stop() },
		}
	})
}

// bench is one server, an authority and what a look is expected to show.
type bench struct {
	ca                  *conformance.Authority
	previous, candidate conformance.Issued
	server              *server
	config              tlsprobe.Config
	options             tlsprobe.Options
}

func newBench(t *testing.T, change func(*server)) *bench {
	t.Helper()
	b := &bench{ca: conformance.NewAuthority(t, "bench")}
	b.previous, b.candidate = b.ca.Issue(t, "service.test"), b.ca.Issue(t, "service.test")
	b.server = listen(t, "127.0.0.1", change)
	b.server.use(b.candidate)
	b.config = tlsprobe.Config{Endpoints: tlsprobe.Endpoints{
		Addresses: []string{b.server.Address}, ServerName: "service.test",
		RootsFile: write(t, "ca.pem", b.ca.Bundle()), Quiet: 50 * time.Millisecond,
	}}
	return b
}

func (b *bench) look(t *testing.T) []verify.Sighting {
	t.Helper()
	wantNoProblems(t, b.config)
	sightings, err := tlsprobe.New(b.config, b.options).Verify(t.Context(),
		verify.Expectation{Fingerprint: b.candidate.Fingerprint, Previous: b.previous.Fingerprint})
	if err != nil {
		t.Fatal(err)
	}
	return sightings
}

func (b *bench) want(t *testing.T, standing activities.Standing, detail string) {
	t.Helper()
	for _, s := range b.look(t) {
		if s.Standing != standing || !strings.Contains(s.Detail, detail) {
			t.Errorf("%s: %s (%q), want %s with %q", s.Address, s.Standing, s.Detail, standing, detail)
		}
	}
}

func TestEachLookShakesHandsTwiceAfresh(t *testing.T) {
	b := newBench(t, nil)
	b.want(t, activities.UsesCandidate, "")
	b.want(t, activities.UsesCandidate, "")
	b.server.with(func() {
		if b.server.accepted != 4 || b.server.resumed != 0 {
			t.Errorf("got %d connections, %d of them resumed; want 4 and 0", b.server.accepted, b.server.resumed)
		}
		for _, name := range b.server.names {
			if name != "service.test" {
				t.Errorf("asked for %q, want service.test", name)
			}
		}
	})
}

// The negative control of the above: the server does resume, for a client that wants it.
func TestTheServerWouldResume(t *testing.T) {
	b := newBench(t, func(s *server) {
		s.after = func(conn *tls.Conn) { _, _ = conn.Write([]byte("x")); _, _ = io.Copy(io.Discard, conn) }
	})
	server := b.server.config()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("x"))
			_ = conn.Close()
		}
	}()
	client := &tls.Config{RootCAs: b.ca.Pool(), ServerName: "service.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	resumed := false
	for range 2 {
		conn, err := tls.Dial("tcp", listener.Addr().String(), client)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(conn)
		resumed = conn.ConnectionState().DidResume
		_ = conn.Close()
	}
	if !resumed {
		t.Error("the server does not resume, so that the test above proves nothing")
	}
}

func TestServersThatUseTheCandidateOnlyAtTimes(t *testing.T) {
	b := newBench(t, nil)
	b.server.use(b.candidate, b.previous)
	b.want(t, activities.UsesPrevious, "after one handshake with the candidate")
}

func TestWhatServersDoWrong(t *testing.T) {
	for name, c := range map[string]struct {
		server   func(*server)
		config   func(*tlsprobe.Config)
		leaf     func(*x509.Certificate)
		standing activities.Standing
		detail   string
	}{
		"a leaf for another name": {
			leaf:     func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"other.test"}, nil },
			standing: activities.Broken, detail: "does not verify",
		},
		"a leaf for clients only": {
			leaf:     func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
			standing: activities.Broken, detail: "does not verify",
		},
		"a leaf that is not valid yet": {
			leaf:     func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) },
			standing: activities.Broken, detail: "does not verify",
		},
		"a server that hangs up before the handshake": {
			server:   func(s *server) { s.before = func(net.Conn) error { return errors.New("no") } },
			standing: activities.Broken, detail: "hangs up",
		},
		"a server that never shakes hands": {
			server: func(s *server) {
				s.before = func(c net.Conn) error { _, _ = io.Copy(io.Discard, c); return errors.New("no") }
			},
			config:   func(c *tlsprobe.Config) { c.Timeout = 100 * time.Millisecond },
			standing: activities.Broken, detail: "does not shake hands in time",
		},
		"a server that hangs up after the handshake": {
			server:   func(s *server) { s.after = func(*tls.Conn) {} },
			standing: activities.Broken, detail: "before a byte was exchanged",
		},
		"a server that speaks first": {
			server: func(s *server) {
				s.after = func(conn *tls.Conn) { _, _ = conn.Write([]byte("220")); _, _ = io.Copy(io.Discard, conn) }
			},
			standing: activities.UsesCandidate,
		},
		"a silent server": {standing: activities.UsesCandidate},
		"a silent server that should speak HTTP": {
			config:   func(c *tlsprobe.Config) { c.Exchange = "http"; c.Timeout = 100 * time.Millisecond },
			standing: activities.Broken, detail: "exchanges no byte in time",
		},
		"a server that speaks no TLS": {
			server: func(s *server) {
				s.before = func(conn net.Conn) error { _, _ = io.WriteString(conn, "hello\r\n"); return errors.New("no") }
			},
			standing: activities.Broken,
		},
		"a bundle that cannot be read": {
			config:   func(c *tlsprobe.Config) { c.RootsFile = "/nonexistent/ca.pem" },
			standing: activities.Unverifiable, detail: "bundle",
		},
		"a name that nobody knows": {
			config:   func(c *tlsprobe.Config) { c.Addresses = []string{"nobody.invalid:443"} },
			standing: activities.Unverifiable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.server)
			if c.leaf != nil {
				b.candidate = b.ca.Issue(t, "service.test", c.leaf)
				b.server.use(b.candidate)
			}
			if c.config != nil {
				c.config(&b.config)
			}
			b.want(t, c.standing, c.detail)
		})
	}
}

// Under TLS 1.3 the client's handshake ends before the server has judged its certificate.
func TestServersThatDemandAClientCertificate(t *testing.T) {
	for name, c := range map[string]struct {
		identity func(t *testing.T, b *bench) conformance.Issued
		standing activities.Standing
		detail   string
	}{
		"the probe has one": {
			identity: func(t *testing.T, b *bench) conformance.Issued { return b.ca.Issue(t, "probe") },
			standing: activities.UsesCandidate,
		},
		"the probe has one of a foreign authority": {
			identity: func(t *testing.T, b *bench) conformance.Issued {
				return conformance.NewAuthority(t, "foreign").Issue(t, "probe")
			},
			standing: activities.Broken, detail: "refuses the connection",
		},
		"the probe has none": {standing: activities.Unverifiable, detail: "demands a client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.server.with(func() { b.server.clients = b.ca.Pool() })
			if c.identity != nil {
				issued := c.identity(t, b)
				b.config.Identity = &tlsprobe.Identity{
					CertificateFile: write(t, "tls.crt", issued.Chain), KeyFile: write(t, "tls.key", issued.Key),
				}
			}
			b.want(t, c.standing, c.detail)
			if s := b.look(t)[0]; s.Serves != b.candidate.Fingerprint {
				t.Errorf("serves %q, want %q", s.Serves, b.candidate.Fingerprint)
			}
		})
	}
}

func TestClientsWhoseServerDoesNotAsk(t *testing.T) {
	b := newBench(t, nil)
	b.config.Mode = tlsprobe.ModeClient
	b.config.Presents = &tlsprobe.Identity{CombinedFile: write(t, "client.pem", append(b.candidate.Chain, b.candidate.Key...))}
	b.want(t, activities.Unverifiable, "does not ask")
}

func TestClientsWhoseFilesDoNotFit(t *testing.T) {
	b := newBench(t, nil)
	b.server.with(func() { b.server.clients = b.ca.Pool() })
	b.config.Mode = tlsprobe.ModeClient
	b.config.Presents = &tlsprobe.Identity{CertificateFile: write(t, "tls.crt", b.candidate.Chain), KeyFile: write(t, "tls.key", b.previous.Key)}
	b.want(t, activities.Broken, "certificate and key")
	for _, s := range b.look(t) {
		for line := range strings.Lines(string(b.previous.Key)) {
			if line = strings.TrimSpace(line); len(line) > 16 && !strings.HasPrefix(line, "-----") && strings.Contains(s.Detail, line) {
				t.Error("the detail holds a line of the key")
			}
		}
	}
}

func TestClientsAreAskedWhatTheyUse(t *testing.T) {
	b := newBench(t, nil)
	answer := `{"fingerprint": "` + b.candidate.Fingerprint + `"}`
	code := http.StatusOK
	instance := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, answer)
	}))
	defer instance.Close()
	b.config = tlsprobe.Config{Mode: tlsprobe.ModeClient, Reports: []string{instance.URL + "/identity?x=y"}}
	b.want(t, activities.UsesCandidate, "")
	if s := b.look(t)[0]; s.Address != instance.URL+"/identity" {
		t.Errorf("address %q, want the URL without its query", s.Address)
	}
	answer = `{"fingerprint": "` + b.previous.Fingerprint + `"}`
	b.want(t, activities.UsesPrevious, "")
	answer = `{"fingerprint": "none"}`
	b.want(t, activities.Unverifiable, "no SHA-256 fingerprint")
	answer, code = `{"fingerprint": "`+b.candidate.Fingerprint+`"}`, http.StatusServiceUnavailable
	b.want(t, activities.Unverifiable, "503")
}

func TestHTTPServersAnswerWithAByte(t *testing.T) {
	for name, offered := range map[string][]string{
		"HTTP/1.1 by configuration": nil, "HTTP/1.1 by ALPN": {"http/1.1"}, "HTTP/2 by ALPN": {"h2"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
			web.EnableHTTP2 = true
			web.TLS = &tls.Config{Certificates: []tls.Certificate{b.candidate.Pair}}
			web.StartTLS()
			defer web.Close()
			b.config.Addresses, b.config.ALPN, b.config.Exchange = []string{web.Listener.Addr().String()}, offered, ""
			if offered == nil {
				b.config.Exchange = "http"
			}
			b.want(t, activities.UsesCandidate, "")
		})
	}
}

// nginx accepts the handshake and refuses the client's certificate by an answer.
func TestHTTPServersThatRefuseByAnAnswer(t *testing.T) {
	status := "400 Bad Request"
	b := newBench(t, func(s *server) {
		s.after = func(conn *tls.Conn) {
			_, _ = bufio.NewReader(conn).ReadString('\n')
			_, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\n\r\n")
		}
	})
	b.server.with(func() { b.server.clients = b.ca.Pool() })
	b.config.Exchange, b.config.Mode = "http", tlsprobe.ModeClient
	b.config.Presents = &tlsprobe.Identity{CombinedFile: write(t, "client.pem", append(b.candidate.Chain, b.candidate.Key...))}
	b.want(t, activities.Broken, "400 Bad Request")
	status = "404 Not Found"
	b.want(t, activities.UsesCandidate, "")
}

func TestPreludes(t *testing.T) {
	expect := func(conn net.Conn, want, answer string) error {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		_, err := io.WriteString(conn, answer)
		return err
	}
	sslRequest := "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	for name, c := range map[string]struct {
		prelude  string
		before   func(net.Conn) error
		after    func(*tls.Conn)
		standing activities.Standing
		detail   string
	}{
		"PostgreSQL with TLS": {
			prelude: "postgres", before: func(c net.Conn) error { return expect(c, sslRequest, "S") },
			after:    func(c *tls.Conn) { _, _ = io.ReadFull(c, make([]byte, 8)); _, _ = c.Write([]byte("R")) },
			standing: activities.UsesCandidate,
		},
		"PostgreSQL without TLS": {
			prelude: "postgres", before: func(c net.Conn) error { return expect(c, sslRequest, "N") },
			standing: activities.Broken, detail: "has no TLS",
		},
		"PostgreSQL that hangs up": {
			prelude: "postgres", before: func(net.Conn) error { return errors.New("no") },
			standing: activities.Broken, detail: "during the prelude",
		},
		"SMTP": {
			prelude: "smtp",
			before: func(c net.Conn) error {
				_, _ = io.WriteString(c, "220-mail\r\n220 ready\r\n")
				return errors.Join(expect(c, "EHLO castellan.invalid\r\n", "250-mail\r\n250 STARTTLS\r\n"), expect(c, "STARTTLS\r\n", "220 go\r\n"))
			},
			after:    func(c *tls.Conn) { _, _ = c.Read(make([]byte, 100)); _, _ = io.WriteString(c, "250 mail\r\n") },
			standing: activities.UsesCandidate,
		},
		"SMTP that is busy": {
			prelude: "smtp", before: func(c net.Conn) error { _, _ = io.WriteString(c, "421 later\r\n"); return errors.New("no") },
			standing: activities.Broken, detail: "421",
		},
		"IMAP": {
			prelude: "imap",
			before: func(c net.Conn) error {
				_, _ = io.WriteString(c, "* OK ready\r\n")
				return expect(c, "a STARTTLS\r\n", "* notice\r\na OK go\r\n")
			},
			after:    func(c *tls.Conn) { _, _ = c.Read(make([]byte, 100)); _, _ = io.WriteString(c, "b OK\r\n") },
			standing: activities.UsesCandidate,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(s *server) {
				s.before = c.before
				if c.after != nil {
					s.after = c.after
				}
			})
			b.config.Prelude = c.prelude
			b.want(t, c.standing, c.detail)
		})
	}
}

// resolver answers from a table; a name without an entry does not exist.
type resolver map[string][]netip.Addr

func (r resolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host == "down.test" {
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	}
	if addresses, ok := r[host]; ok {
		return addresses, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func TestEveryAddressOfANameIsProbed(t *testing.T) {
	b := newBench(t, nil)
	_, port, err := net.SplitHostPort(b.server.Address)
	if err != nil {
		t.Fatal(err)
	}
	b.options.Resolver = resolver{"service.test": {
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("127.0.0.9"),
	}}
	b.config.Addresses, b.config.ServerName, b.config.DNS = nil, "", []string{"service.test:" + port}
	got := map[string]activities.Standing{}
	for _, s := range b.look(t) {
		got[s.Address] = s.Standing
	}
	want := map[string]activities.Standing{"127.0.0.1:" + port: activities.UsesCandidate, "127.0.0.9:" + port: activities.Broken}
	if len(got) != len(want) || got["127.0.0.1:"+port] != activities.UsesCandidate || got["127.0.0.9:"+port] != activities.Broken {
		t.Errorf("got %v, want %v", got, want)
	}

	b.config.DNS = []string{"gone.test:443"}
	b.want(t, activities.Unverifiable, "no address")

	b.config.DNS = []string{"down.test:443"}
	_, err = tlsprobe.New(b.config, b.options).Verify(t.Context(), verify.Expectation{})
	if activities.KindOf(err) != activities.Transient || err == nil {
		t.Errorf("a resolver that fails: got %v, want kind %q", err, activities.Transient)
	}
}

// source lists fixed addresses.
type source []string

func (s source) Addresses(context.Context) ([]string, error) {
	if s == nil {
		return nil, activities.Errorf(activities.Denied, "no right to list")
	}
	return s, nil
}

func TestAddressesFromASource(t *testing.T) {
	b := newBench(t, nil)
	b.options.Sources = []tlsprobe.Source{source{b.server.Address}, source{}}
	b.config.Addresses = nil
	b.want(t, activities.UsesCandidate, "")
	b.options.Sources = append(b.options.Sources, source(nil))
	if _, err := tlsprobe.New(b.config, b.options).Verify(t.Context(), verify.Expectation{}); activities.KindOf(err) != activities.Denied {
		t.Errorf("a source that fails: got %v, want kind %q", err, activities.Denied)
	}
}

func TestNotMoreThanTheConfiguredNumberAtOnce(t *testing.T) {
	b := newBench(t, nil)
	var mutex sync.Mutex
	now, most := 0, 0
	var list source
	for i := range 12 {
		list = append(list, fmt.Sprintf("192.0.2.%d:443", i+1))
	}
	b.options.Sources, b.config.Addresses, b.config.Concurrent = []tlsprobe.Source{list}, nil, 3
	b.options.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		mutex.Lock()
		now++
		most = max(most, now)
		mutex.Unlock()
		defer func() { mutex.Lock(); now--; mutex.Unlock() }()
		return new(net.Dialer).DialContext(ctx, network, b.server.Address)
	}
	b.want(t, activities.UsesCandidate, "")
	if most > 3 {
		t.Errorf("got %d probes at once, want at most 3", most)
	}
}

func TestTheBundleIsReadAgain(t *testing.T) {
	b := newBench(t, nil)
	b.want(t, activities.UsesCandidate, "")
	if err := os.WriteFile(b.config.RootsFile, conformance.NewAuthority(t, "next").Bundle(), 0o600); err != nil {
		t.Fatal(err)
	}
	b.want(t, activities.Broken, "does not verify")
}
