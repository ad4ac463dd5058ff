package demo

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"castellan.dev/internal/config"
	"castellan.dev/workers"
)

func TestTheConfigurationOfTheShowHasNoProblem(t *testing.T) {
	l, err := newLayout(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if err := l.write(a); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Load(l.state.Config())
	if cfg != nil {
		problems = append(problems, cfg.Check(workers.Catalogue())...)
	}
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	if got := len(cfg.Targets()); got != len(targets()) {
		t.Errorf("got %d targets, want %d", got, len(targets()))
	}
	if _, err := newLayout(string(l.state)); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a second show in the same directory: got %v, want it refused", err)
	}
}

func TestATemporaryStateDirectoryIsRemovedAndANamedOneKept(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, dir := range []string{"", t.TempDir() + "/kept"} {
		l, err := newLayout(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.remove(); err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(string(l.state))
		if kept := err == nil; kept != (dir != "") {
			t.Errorf("directory %q: kept %t", dir, kept)
		}
	}
}

func TestAChildThatEndsByItselfEndsTheShow(t *testing.T) {
	ctx, fail := context.WithCancelCause(t.Context())
	c := &children{logs: t.TempDir(), fail: fail}
	defer c.stop()
	if _, err := c.start("worker", nil, "/bin/sh", "-c", "echo out of memory >&2; exit 3"); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if got := context.Cause(ctx).Error(); !strings.Contains(got, "worker") || !strings.Contains(got, "exit status 3") || !strings.Contains(got, "out of memory") {
		t.Errorf("got %q, want who, how and the end of its log", got)
	}
}

func TestEveryChildIsStoppedWithItsChildren(t *testing.T) {
	ctx, fail := context.WithCancelCause(t.Context())
	c := &children{logs: t.TempDir(), fail: fail}
	polite, err := c.start("polite", nil, "/bin/sh", "-c", "sleep 1000 & echo $!; wait")
	if err != nil {
		t.Fatal(err)
	}
	killed, err := c.start("killed", nil, "/bin/sh", "-c", "trap '' TERM; sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.kill(killed); err != nil {
		t.Fatal(err)
	}
	c.stop()
	<-polite.done
	for _, one := range []*child{polite, killed} {
		// What a child has left behind is reaped by init, a moment later.
		err := until(t.Context(), 10*time.Millisecond, func() (bool, error) {
			return errors.Is(syscall.Kill(-one.cmd.Process.Pid, 0), syscall.ESRCH), nil
		})
		if err != nil {
			t.Errorf("group of %s is still there: %v", one.name, err)
		}
	}
	if err := context.Cause(ctx); err != nil {
		t.Errorf("got %v, want no failure: their end was asked for", err)
	}
	if _, err := c.start("late", nil, "/bin/true"); err == nil {
		t.Error("a child started after the end")
	}
}

func TestAPrivateKeyIsFoundInEveryForm(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	k := &keys{found: map[string]*ecdsa.PrivateKey{string(text): key}}
	needles, err := k.needles()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for form, leaked := range map[string][]byte{
		"as it is": text, "DER": der, "its number": secret,
		"as JSON":                            bytes.ReplaceAll(text, []byte("\n"), []byte(`\n`)),
		"PEM without line breaks":            bytes.ReplaceAll(text, []byte("\n"), nil),
		"base64 of DER":                      []byte(base64.StdEncoding.EncodeToString(der)),
		"base64 of DER after one character":  []byte(base64.StdEncoding.EncodeToString(append([]byte("x"), der...))),
		"base64 of DER after two characters": []byte(base64.StdEncoding.EncodeToString(append([]byte("xy"), der...))),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "log"), append([]byte("before "), leaked...), 0o600); err != nil {
			t.Fatal(err)
		}
		if hits, _, err := search(t.Context(), needles, dir); err != nil || len(hits) != 1 {
			t.Errorf("%s: got %v, %v, want one hit", form, hits, err)
		}
	}
	clean := t.TempDir()
	if err := os.WriteFile(filepath.Join(clean, "log"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if hits, files, err := search(t.Context(), needles, clean); err != nil || len(hits) != 0 || files != 1 {
		t.Errorf("nothing leaked: got %v in %d files, %v", hits, files, err)
	}
}
