package engine

import (
	"bufio"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
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
		file, err := os.Open(table)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
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

// speak connects and asks for HTTP/2: a server that accepted the client answers with its settings.
func speak(address string, config *tls.Config) error {
	var conn net.Conn
	var err error
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	if config == nil {
		conn, err = dialer.Dial("tcp", address)
	} else {
		conn, err = tls.DialWithDialer(dialer, "tcp", address, config)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	// The preface of HTTP/2 and an empty settings frame.
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	header := make([]byte, 9)
	if _, err := io.ReadFull(conn, header); err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	const settingsFrame = 4
	if header[3] != settingsFrame {
		return fmt.Errorf("the answer is no settings frame but %q", header)
	}
	return nil
}

func TestEveryListeningPortRefusesStrangers(t *testing.T) {
	before := listening(t)
	h := openHouse(t, t.TempDir())
	strangers, err := newForeignSource(t)
	if err != nil {
		t.Fatal(err)
	}
	worker, err := h.source(t.Context(), "privileged")
	if err != nil {
		t.Fatal(err)
	}

	var ports []string
	for _, address := range listening(t) {
		if !slices.Contains(before, address) {
			ports = append(ports, address)
		}
	}
	if got, want := len(ports), len(services()); got != want {
		t.Errorf("the engine listens on %d ports %v, want one per service (%d): no membership, metrics, profiling or HTTP port", got, ports, want)
	}
	if !slices.Contains(ports, h.engine.Address()) {
		t.Fatalf("the ports %v lack the frontend %s", ports, h.engine.Address())
	}

	clients := map[string]*tls.Config{
		"plain text":           nil,
		"no certificate":       trusting(&tls.Config{}),
		"foreign certificate":  trusting(strangers.TLSClient(identity.Engine)),
		"worker's certificate": trusting(worker.TLSClient(identity.Engine)),
	}
	for _, address := range ports {
		host, _, err := net.SplitHostPort(address)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			t.Errorf("the engine listens on %s, want loopback only", address)
		}
		for name, config := range clients {
			err := speak(address, config)
			welcome := name == "worker's certificate" && address == h.engine.Address()
			if welcome && err != nil {
				t.Errorf("%s with %s: %v; want the frontend to answer", address, name, err)
			}
			if !welcome && err == nil {
				t.Errorf("%s answered a client with %s", address, name)
			}
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("%s with %s: neither answered nor refused", address, name)
			}
		}
	}
}

// trusting drops the client's own checks and offers HTTP/2, so that only the server can refuse.
func trusting(config *tls.Config) *tls.Config {
	config.InsecureSkipVerify, config.VerifyConnection = true, nil
	config.NextProtos = []string{"h2"}
	return config
}

func newForeignSource(t *testing.T) (*identity.Source, error) {
	authority, err := identity.OpenAuthority(identity.AuthorityConfig{Dir: t.TempDir()})
	if err != nil {
		return nil, err
	}
	return identity.NewSource(t.Context(), identity.SourceConfig{Name: "control", Renewer: authority.Renewer("control")})
}
