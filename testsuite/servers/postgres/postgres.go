// Package postgres runs a real, private PostgreSQL for tests: a cluster of its own in a temporary
// directory, on a free loopback port, with one superuser that logs in by password. It needs the
// server's binaries and fails with one sentence when they are missing. It is for tests only: the
// cluster does not wait for the disk, so it survives the death of a process and not of the machine.
package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// User is the superuser of every server.
const User = "castellan"

// Options change how a server is started. The zero value is a server without TLS.
type Options struct {
	// Certificate and Key are PEM. The server serves TLS with them, from CertFile and KeyFile below its own
	// directory. Connections without TLS are still accepted.
	Certificate, Key []byte
	// CertFile and KeyFile name files to serve TLS from instead. The server's system user must be able to
	// read them; PostgreSQL refuses a key that others may read.
	CertFile, KeyFile string
	// Settings are further server settings, such as "log_connections=on".
	Settings []string
}

// Server is a running PostgreSQL. It is stopped and removed with the test.
type Server struct {
	Host     string // 127.0.0.1
	Port     int
	Password string
	CertFile string // what TLS is served from; empty without TLS
	KeyFile  string
	Dir      string // the server's directory; its own user may write there

	tb       testing.TB
	bin      string
	owner    owner
	settings []string

	mu        sync.Mutex
	process   *process
	databases int
}

// Start starts a server without TLS.
func Start(tb testing.TB) *Server {
	tb.Helper()
	return StartWith(tb, Options{})
}

// StartWith starts a server.
func StartWith(tb testing.TB, options Options) *Server {
	tb.Helper()
	bin, err := binaries()
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{Host: "127.0.0.1", Password: rand.Text(), tb: tb, bin: bin, settings: options.Settings}
	if s.owner, err = systemUser(); err != nil {
		tb.Fatal(err)
	}
	if s.Dir, err = os.MkdirTemp("", "castellan-postgres-"); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		s.Kill()
		if err := os.RemoveAll(s.Dir); err != nil {
			tb.Errorf("remove the server's directory: %v", err)
		}
	})
	if err := s.owner.own(s.Dir); err != nil {
		tb.Fatal(err)
	}
	s.initialise()
	s.CertFile, s.KeyFile = options.CertFile, options.KeyFile
	if options.Certificate != nil {
		s.CertFile, s.KeyFile = filepath.Join(s.Dir, "server.crt"), filepath.Join(s.Dir, "server.key")
		s.writeCertificate(options.Certificate, options.Key)
	}
	s.startSomewhere()
	return s
}

// initialise makes the cluster.
func (s *Server) initialise() {
	s.tb.Helper()
	password := filepath.Join(s.Dir, "password")
	s.write(password, []byte(s.Password))
	command := s.owner.command(filepath.Join(s.bin, "initdb"), "--pgdata", s.data(), "--username", User, "--pwfile", password,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions")
	if out, err := command.CombinedOutput(); err != nil {
		s.tb.Fatalf("initdb: %v\n%s", err, out)
	}
	if err := os.Remove(password); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

// PIDFile names a file whose first line is the server's process id.
func (s *Server) PIDFile() string { return filepath.Join(s.data(), "postmaster.pid") }

// Address returns host and port.
func (s *Server) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// DSN returns a connection string for the database "postgres", without TLS.
func (s *Server) DSN() string { return s.dsn("postgres") }

func (s *Server) dsn(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(User, s.Password), Host: s.Address(), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Database makes an empty database of its own for the test and returns its connection string.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	s.mu.Lock()
	s.databases++
	name := fmt.Sprintf("test%d", s.databases)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	return s.dsn(name)
}

// DSNFile writes a connection string to a file that only the test's user can read, and returns its path.
func DSNFile(tb testing.TB, dsn string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "dsn")
	if err := os.WriteFile(path, []byte(dsn+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// SetCertificate replaces the certificate and the key that Options gave, and makes the server read them.
// The connections that are open keep theirs.
func (s *Server) SetCertificate(certificate, key []byte) {
	s.tb.Helper()
	s.writeCertificate(certificate, key)
	s.Reload()
}

func (s *Server) writeCertificate(certificate, key []byte) {
	s.tb.Helper()
	s.write(s.KeyFile, key)
	s.write(s.CertFile, certificate)
}

// write replaces a file of the server's own user, for nobody else to read.
func (s *Server) write(path string, content []byte) {
	s.tb.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, content, 0o600); err != nil {
		s.tb.Fatal(err)
	}
	if err := s.owner.own(next); err != nil {
		s.tb.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		s.tb.Fatal(err)
	}
}

// Reload makes the server read its configuration, certificate and key again (SIGHUP). It does not wait.
func (s *Server) Reload() { s.signal(syscall.SIGHUP) }

// PID returns the server's process id; zero while it is down.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return 0
	}
	return s.process.pid
}

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if pid := s.PID(); pid != 0 {
		if err := syscall.Kill(pid, sig); err != nil {
			s.tb.Fatalf("signal the server: %v", err)
		}
	}
}

// Kill ends the server at once, as a crash does: connections break, open transactions are lost, and the
// next start recovers from the log.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	s.process.end()
	s.process = nil
}

// Restart kills the server if it runs, and starts it again on the same port.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	if err := s.run(); err != nil {
		s.tb.Fatal(err)
	}
}

// startSomewhere starts the server on a free port. Another process may take the port between the
// choice and the start, so the choice is made a few times.
func (s *Server) startSomewhere() {
	s.tb.Helper()
	var err error
	for range 5 {
		if s.Port, err = freePort(s.Host); err != nil {
			s.tb.Fatal(err)
		}
		if err = s.run(); err == nil || !strings.Contains(err.Error(), "Address already in use") {
			break
		}
	}
	if err != nil {
		s.tb.Fatal(err)
	}
}

func freePort(host string) (int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// run starts the server and returns when it answers logins.
func (s *Server) run() error {
	arguments := []string{"-D", s.data(), "-c", "port=" + strconv.Itoa(s.Port), "-c", "listen_addresses=" + s.Host}
	settings := []string{"unix_socket_directories=", "fsync=off", "max_connections=64", "shared_buffers=32MB"}
	if s.CertFile != "" {
		settings = append(settings, "ssl=on", "ssl_cert_file="+s.CertFile, "ssl_key_file="+s.KeyFile)
	}
	for _, setting := range slices.Concat(settings, s.settings) {
		arguments = append(arguments, "-c", setting)
	}
	log := new(output)
	command := s.owner.command(filepath.Join(s.bin, "postgres"), arguments...)
	command.Stdout, command.Stderr = log, log
	process, err := launch(command)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	if err := s.answers(process); err != nil {
		process.end()
		return fmt.Errorf("start postgres: %w\n%s", err, log)
	}
	s.mu.Lock()
	s.process = process
	s.mu.Unlock()
	return nil
}

// answers polls until a login gets its verdict or the process has ended. A refusal is one: a test may have
// changed the password.
func (s *Server) answers(process *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.DSN())
		if err == nil {
			return conn.Close(ctx)
		}
		var verdict *pgconn.PgError
		if errors.As(err, &verdict) && strings.HasPrefix(verdict.Code, "28") { // invalid authorization
			return nil
		}
		select {
		case <-process.ended:
			return fmt.Errorf("it ended: %w", err)
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// output keeps what the server says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String returns the end of it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := o.text.Bytes()
	return string(text[max(0, len(text)-4096):])
}

// binaries returns the directory of the newest installed server's programs.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is well-formed
	newest, dir := 0, ""
	for _, path := range found {
		version, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err == nil && version > newest {
			newest, dir = version, filepath.Dir(path)
		}
	}
	if dir != "" {
		return dir, nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", fmt.Errorf("postgres is not installed, and this test needs the real one: run `make setup` or `apt-get install -y postgresql`")
}
