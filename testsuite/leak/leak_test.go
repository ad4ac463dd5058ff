package leak_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"castellan.dev/testsuite/leak"
	_ "modernc.org/sqlite"
)

// noise surrounds what is planted, so that no form is found only at the edge of a source.
const noise = "2026-01-02T03:04:05Z INFO rotation of target \"orders\" ended\n"

var escape = regexp.MustCompile("%..")

// writers plant a value in every form that the package promises to find: each is the negative
// control of one encoding.
func writers() map[string]func(value string) string {
	std, urlSafe := base64.StdEncoding, base64.URLEncoding
	all := map[string]func(string) string{
		"plain":             func(v string) string { return v },
		"hex":               func(v string) string { return hex.EncodeToString([]byte(v)) },
		"upper hex":         func(v string) string { return fmt.Sprintf("%X", v) },
		"colon hex":         func(v string) string { return strings.ReplaceAll(fmt.Sprintf("% x", v), " ", ":") },
		"URL query":         url.QueryEscape,
		"URL path":          url.PathEscape,
		"lower URL escapes": func(v string) string { return escape.ReplaceAllStringFunc(url.QueryEscape(v), strings.ToLower) },
		"JSON":              func(v string) string { b, _ := json.Marshal(v); return string(b) },
		"JSON, HTML kept": func(v string) string {
			var b strings.Builder
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			e.Encode(map[string]string{"k": v})
			return b.String()
		},
		"Go quoted":            func(v string) string { return fmt.Sprintf("%q", v) },
		"Go quoted ASCII":      func(v string) string { return fmt.Sprintf("%+q", v) },
		"printed byte slice":   func(v string) string { return fmt.Sprint([]byte(v)) },
		"JSON array of bytes":  func(v string) string { return strings.ReplaceAll(fmt.Sprint([]byte(v)), " ", ",") },
		"gzip":                 func(v string) string { return compressed(noise + v + noise) },
		"gzip in base64":       func(v string) string { return std.EncodeToString([]byte(compressed(noise + v))) },
		"gzip in gzip":         func(v string) string { return compressed(noise + compressed(noise+v)) },
		"gzip cut short":       func(v string) string { c := compressed(v + noise); return c[:len(c)-6] },
		"base64 within gzip":   func(v string) string { return compressed("x" + std.EncodeToString([]byte(v))) },
		"zlib":                 deflated,
		"base64 over lines":    func(v string) string { return wrap(std.EncodeToString([]byte("ab"+v)), 16, "\n") },
		"base64 in JSON lines": func(v string) string { return wrap(std.EncodeToString([]byte(v)), 16, `\n`) },
		"base64 in YAML lines": func(v string) string { return wrap(std.EncodeToString([]byte(v)), 16, "\n    ") },
		"history payload": func(v string) string {
			inner, _ := json.Marshal(map[string][]byte{"Value": []byte("x" + v)})
			outer, _ := json.Marshal(map[string][]byte{"data": inner})
			return string(outer)
		},
		"base64 of JSON": func(v string) string { b, _ := json.Marshal(v); return std.EncodeToString(b) },
		"basic auth":     func(v string) string { return std.EncodeToString([]byte("castellan:" + v)) },
	}
	for offset := range 4 {
		before, after := strings.Repeat("p", offset), strings.Repeat("s", 3-offset)
		all[fmt.Sprintf("base64 behind %d bytes", offset)] = func(v string) string { return std.EncodeToString([]byte(before + v + after)) }
		all[fmt.Sprintf("base64url behind %d bytes", offset)] = func(v string) string { return urlSafe.EncodeToString([]byte(before + v + after)) }
	}
	return all
}

func compressed(content string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, content)
	w.Close()
	return b.String()
}

func deflated(content string) string {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	io.WriteString(w, noise+content)
	w.Close()
	return b.String()
}

func wrap(text string, width int, separator string) string {
	var lines []string
	for ; len(text) > width; text = text[width:] {
		lines = append(lines, text[:width])
	}
	return strings.Join(append(lines, text), separator)
}

// find returns the hits and checks that none shows the value.
func find(t *testing.T, canary leak.Canary, sources ...leak.Source) []leak.Hit {
	t.Helper()
	hits, err := leak.Search([]leak.Canary{canary}, sources...)
	if err != nil {
		t.Fatal(err)
	}
	for _, hit := range hits {
		if strings.Contains(fmt.Sprintf("%v %+v", hit, hit), string(canary.Value.Reveal())) {
			t.Error("a hit shows the canary")
		}
	}
	return hits
}

func TestEveryFormIsFound(t *testing.T) {
	canaries := map[string]leak.Canary{
		"a random value": leak.Random("random"),
		"a password":     leak.New("password", `p@ss/w+rd "quoted" <&> é%41`),
		"a short token":  leak.New("token", "tok-8chr"),
		"binary":         leak.New("binary", "\x00\xff\x80key\x01\x02\xfe\xfd\xfc\xfb"),
	}
	for what, canary := range canaries {
		for form, write := range writers() {
			t.Run(what+" as "+form, func(t *testing.T) {
				planted := noise + write(string(canary.Value.Reveal())) + noise
				hits := find(t, canary, leak.String("planted", planted))
				if len(hits) == 0 {
					t.Error("not found")
				}
				// The same text around another value is clean: what is found is the value.
				other := leak.Random("other")
				if hits := find(t, other, leak.String("planted", planted)); len(hits) > 0 {
					t.Errorf("another canary: got %v, want nothing", hits)
				}
			})
		}
	}
}

func TestRandomValuesAreFoundWhenCutInTwo(t *testing.T) {
	canary := leak.Random("cut")
	value := string(canary.Value.Reveal())
	for cut := range len(value) {
		if len(find(t, canary, leak.String("page", noise+value[:cut]+"\x00\x00\x00\x07"+value[cut:]))) == 0 {
			t.Errorf("cut after %d bytes: not found", cut)
		}
	}
}

func TestPrivateKeysAreFoundInEveryEncoding(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	for name, key := range map[string]any{"ECDSA": p256, "Ed25519": edwards, "RSA": rsaKey} {
		t.Run(name, func(t *testing.T) {
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			block := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
			canary := leak.New(name, block)
			body := strings.Join(strings.Split(strings.TrimSpace(block), "\n")[1:strings.Count(block, "\n")-1], "")
			var secretScalar []byte
			switch key := key.(type) {
			case *ecdsa.PrivateKey:
				secretScalar, _ = key.Bytes()
			case ed25519.PrivateKey:
				secretScalar = key.Seed()
			case *rsa.PrivateKey:
				secretScalar = key.Primes[1].Bytes()
			}
			quoted, _ := json.Marshal(block)
			planted := map[string]string{
				"PEM":                          block,
				"PEM with CRLF":                strings.ReplaceAll(block, "\n", "\r\n"),
				"PEM in JSON":                  string(quoted),
				"PEM in base64":                base64.StdEncoding.EncodeToString([]byte(block)),
				"PEM indented in YAML":         strings.ReplaceAll(block, "\n", "\n      "),
				"PEM body without line breaks": body,
				"PEM body over 76 columns":     wrap(body, 76, "\n"),
				"DER":                          string(der),
				"DER in hex":                   hex.EncodeToString(der),
				"scalar in a JWK":              base64.RawURLEncoding.EncodeToString(secretScalar),
				"scalar printed as a number":   fmt.Sprintf("%x", secretScalar),
			}
			for form, text := range planted {
				if len(find(t, canary, leak.String("planted", noise+text+noise))) == 0 {
					t.Errorf("%s: not found", form)
				}
			}
			public, _ := x509.MarshalPKIXPublicKey(key.(crypto.Signer).Public())
			clean := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})) + hex.EncodeToString(public) + "-----BEGIN PRIVATE KEY-----"
			if hits := find(t, canary, leak.String("public", clean)); len(hits) > 0 {
				t.Errorf("the public key: got %v, want nothing", hits)
			}
		})
	}
}

func TestFilesAreSearchedRaw(t *testing.T) {
	dir := t.TempDir()
	canary := leak.Random("row")
	database, err := sql.Open("sqlite", filepath.Join(dir, "deep", "state.db")+"?_pragma=journal_mode(wal)&_pragma=wal_autocheckpoint(0)")
	if err != nil {
		t.Fatal(err)
	}
	defer database.Close()
	if err := os.Mkdir(filepath.Join(dir, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"CREATE TABLE t(v)", "INSERT INTO t VALUES('" + string(canary.Value.Reveal()) + "')"} {
		if _, err := database.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	hits := find(t, canary, leak.Dir(dir))
	if len(hits) == 0 || !strings.HasSuffix(hits[0].Source, "state.db-wal") {
		t.Errorf("got %v, want hits in the write-ahead log", hits)
	}
	value := rand.Text()
	canary = leak.New("letters", value)
	for _, path := range []string{".hidden", "x.tmp-123", value} {
		other := t.TempDir()
		if err := os.WriteFile(filepath.Join(other, path), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if hits := find(t, canary, leak.Dir(other)); len(hits) == 0 {
			t.Error("a file with a hidden, temporary or leaking name: not found")
		}
		if hits := find(t, canary, leak.File(filepath.Join(other, path))); len(hits) == 0 {
			t.Error("single file: not found")
		}
	}
}

func TestProcessesAreSearched(t *testing.T) {
	argument, environment := leak.Random("argument"), leak.Random("environment")
	command := exec.Command("sleep", "60")
	command.Args[0] = "sleep-" + string(argument.Value.Reveal())
	command.Env = []string{"TOKEN=" + string(environment.Value.Reveal())}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer command.Wait()
	defer command.Process.Kill()
	for _, canary := range []leak.Canary{argument, environment} {
		if hits := find(t, canary, leak.Process(command.Process.Pid)); len(hits) == 0 {
			t.Errorf("%s of a process: not found", canary.Name)
		}
	}
}

func TestWhatCannotBeSearchedIsAnError(t *testing.T) {
	canary := leak.Random("any")
	for name, source := range map[string]leak.Source{
		"an absent file":      leak.File(filepath.Join(t.TempDir(), "absent")),
		"an absent directory": leak.Dir(filepath.Join(t.TempDir(), "absent")),
		"an absent process":   leak.Process(1 << 30),
	} {
		if _, err := leak.Search([]leak.Canary{canary}, source); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
	if _, err := leak.Search([]leak.Canary{leak.New("short", "1234567")}); err == nil {
		t.Error("a canary that chance would find: want an error")
	}
}

// failures counts what Check reports.
type failures struct {
	testing.TB
	errors []string
}

func (f *failures) Helper()           {}
func (f *failures) Error(args ...any) { f.errors = append(f.errors, fmt.Sprint(args...)) }

func TestCheckFailsForHitsAndUnreadSources(t *testing.T) {
	canary := leak.Random("any")
	var f failures
	leak.Check(&f, []leak.Canary{canary}, leak.String("log", noise))
	if len(f.errors) != 0 {
		t.Errorf("a clean source: got %q", f.errors)
	}
	leak.Check(&f, []leak.Canary{canary}, leak.Bytes("log", canary.Value.Reveal()), leak.File("/absent"))
	if len(f.errors) < 2 {
		t.Errorf("got %q, want a hit and an unread source", f.errors)
	}
}
