package rotation

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"castellan.dev/internal/identity"
)

// listening returns every TCP address on which this process listens, as the kernel sees it.
func listening(t *testing.T) []string {
	t.Helper()
	mine := map[string]bool{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		link, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); err == nil && ok {
			mine[strings.TrimSuffix(inode, "]")] = true
		}
	}
	var addresses []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(table)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			const stateListen = "0A"
			if len(fields) > 9 && fields[3] == stateListen && mine[fields[9]] {
				addresses = append(addresses, kernelAddress(t, fields[1]))
			}
		}
	}
	slices.Sort(addresses)
	return addresses
}

// kernelAddress decodes "0100007F:1C39": words in host order, port in network order.
func kernelAddress(t *testing.T, text string) string {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil {
		t.Fatal(err)
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(net.IP(raw).String(), strconv.FormatUint(number, 10))
}

// ask sends the beginning of a request and reports whether the server answered it.
func ask(address string, config *tls.Config, request string) error {
	var conn net.Conn
	var err error
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if config == nil {
		conn, err = dialer.Dial("tcp", address)
	} else {
		conn, err = tls.DialWithDialer(dialer, "tcp", address, config)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	answer := make([]byte, 9)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	if plainRefusal := "HTTP/1.0 "; string(answer) == plainRefusal {
		return errors.New("the server speaks TLS only")
	}
	return nil
}

const (
	helloHTTP1 = "GET /v1/certificates HTTP/1.1\r\nHost: localhost\r\n\r\n"
	helloHTTP2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
)

// testPorts dials everything that castellan-dev opened. Public by nature are the web page, which has a
// login of its own, and the certificate authority: who has no certificate yet must be able to ask for
// one, with a token.
func testPorts(t *testing.T, h *house, before []string) {
	foreign, err := identity.OpenAuthority(identity.AuthorityConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: identity.Operator, Renewer: foreign.Renewer(identity.Operator)})
	if err != nil {
		t.Fatal(err)
	}
	page, authority, api := hostOf(t, h.endpoints.Web), hostOf(t, h.endpoints.CA.URL), hostOf(t, h.endpoints.API)
	guarded := 0
	for _, address := range listening(t) {
		if slices.Contains(before, address) || address == page || address == authority {
			continue
		}
		guarded++
		if host, _, err := net.SplitHostPort(address); err != nil || !net.ParseIP(host).IsLoopback() {
			t.Errorf("castellan-dev listens on %s, want loopback only", address)
		}
		protocol, request := "h2", helloHTTP2
		if address == api {
			protocol, request = "http/1.1", helloHTTP1
		}
		for name, config := range map[string]*tls.Config{
			"plain text":          nil,
			"no certificate":      trusting(&tls.Config{}, protocol),
			"foreign certificate": trusting(stranger.TLSClient(identity.Serve), protocol),
		} {
			err := ask(address, config, request)
			var timeout net.Error
			switch {
			case err == nil:
				t.Errorf("%s answered a client with %s", address, name)
			case errors.As(err, &timeout) && timeout.Timeout():
				t.Errorf("%s with %s: neither answered nor refused", address, name)
			}
		}
	}
	if guarded < 3 {
		t.Errorf("found %d guarded ports, want the interface's and the engine's", guarded)
	}
	// The control: an operator's certificate is answered, so refusals above are refusals.
	for address, request := range map[string]string{api: helloHTTP1, h.endpoints.Engine: helloHTTP2} {
		protocol := map[string]string{api: "http/1.1", h.endpoints.Engine: "h2"}[address]
		if err := ask(address, trusting(h.operator.TLSClient(identity.Serve), protocol), request); err != nil {
			t.Errorf("%s with the operator's certificate: %v, want an answer", address, err)
		}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting(&tls.Config{}, "http/1.1"), DisableKeepAlives: true}}
	for _, path := range []string{"/1.0/sign", "/1.0/renew", "/1.0/rekey", "/1.0/revoke"} {
		response, err := client.Post(h.endpoints.CA.URL+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode < 400 || response.StatusCode >= 500 {
			t.Errorf("the authority answered %s without a token with %s, want a refusal", path, response.Status)
		}
	}
}

// trusting drops the client's own checks, so that only the server can refuse.
func trusting(config *tls.Config, protocol string) *tls.Config {
	config.InsecureSkipVerify, config.VerifyConnection = true, nil
	config.NextProtos = []string{protocol}
	return config
}

func hostOf(t *testing.T, address string) string {
	t.Helper()
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Host
}
