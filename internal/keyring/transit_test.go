package keyring_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"castellan.dev/internal/keyring"
)

// transit speaks the wire format of Vault's transit engine, strictly: whatever the real one refuses
// is refused. The same tests run on a real Vault where the test servers are built.
type transit struct {
	mu     sync.Mutex
	values map[string]string
	calls  int
	reply  func(http.ResponseWriter) bool // overrides the answer
}

func (v *transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls++
	refuse := func(status int, text string) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string][]string{"errors": {text}})
	}
	var body map[string]string
	decoder := json.NewDecoder(r.Body)
	switch {
	case r.Header.Get("X-Vault-Request") != "true":
		refuse(400, "missing required header")
	case r.Header.Get("X-Vault-Token") != "token-canary-51":
		refuse(403, "permission denied")
	case v.reply != nil && v.reply(w):
	case r.Method != http.MethodPost && r.Method != http.MethodPut:
		refuse(405, "unsupported operation")
	case decoder.Decode(&body) != nil:
		refuse(400, "failed to parse JSON input")
	case r.URL.Path == "/v1/transit/encrypt/castellan":
		if _, err := base64.StdEncoding.DecodeString(body["plaintext"]); err != nil {
			refuse(400, "failed to base64-decode plaintext")
			return
		}
		handle := "vault:v1:" + rand.Text()
		v.values[handle] = body["plaintext"]
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"ciphertext": handle, "key_version": 1}})
	case r.URL.Path == "/v1/transit/decrypt/castellan":
		plaintext, ok := v.values[body["ciphertext"]]
		if !ok {
			refuse(400, "invalid ciphertext: could not decrypt")
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"plaintext": plaintext}})
	default:
		refuse(404, "no handler for route")
	}
}

// startTransit serves the fake over TLS and returns a configuration that reaches it.
func startTransit(t *testing.T) (*transit, keyring.TransitConfig) {
	t.Helper()
	fake := &transit{values: map[string]string{}}
	server := httptest.NewTLSServer(fake)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return fake, keyring.TransitConfig{
		Address:   server.URL,
		TokenFile: write("token", []byte("token-canary-51\n")),
		CAFile:    write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
		Key:       "castellan",
	}
}

func newTransit(t *testing.T, config keyring.TransitConfig) *keyring.Transit {
	t.Helper()
	vault, err := keyring.NewTransit(config)
	if err != nil {
		t.Fatal(err)
	}
	return vault
}

func TestTransitUnwrapsAtStartAndIsNotAskedAgain(t *testing.T) {
	fake, config := startTransit(t)
	vault := newTransit(t, config)
	path := filepath.Join(t.TempDir(), "ring")
	if err := keyring.CreateWrapped(t.Context(), path, vault); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.LoadWrapped(t.Context(), path, vault)
	if err != nil {
		t.Fatal(err)
	}
	before := fake.calls
	id, sealed := ring.Seal([]byte("value"), nil)
	if got, err := ring.Open(id, sealed, nil); err != nil || string(got) != "value" {
		t.Errorf("got %q, %v", got, err)
	}
	if fake.calls != before {
		t.Errorf("sealing and opening made %d calls, want none", fake.calls-before)
	}
}

func TestTransitErrorsAreClearAndShowNoSecret(t *testing.T) {
	tests := map[string]struct {
		change func(*testing.T, *transit, *keyring.TransitConfig)
		want   string
	}{
		"a wrong token": {func(t *testing.T, _ *transit, c *keyring.TransitConfig) {
			c.TokenFile = filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(c.TokenFile, []byte("wrong-canary-52"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "status 403: permission denied"},
		"a token that others can read": {func(t *testing.T, _ *transit, c *keyring.TransitConfig) {
			if err := os.Chmod(c.TokenFile, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "want no access for others"},
		"no token file": {func(_ *testing.T, _ *transit, c *keyring.TransitConfig) {
			c.TokenFile += ".absent"
		}, "no such file"},
		"an unknown certificate": {func(_ *testing.T, _ *transit, c *keyring.TransitConfig) {
			c.CAFile = ""
		}, "certificate"},
		"another transit key": {func(_ *testing.T, _ *transit, c *keyring.TransitConfig) {
			c.Key = "other"
		}, "status 404"},
		"a sealed vault": {func(_ *testing.T, v *transit, _ *keyring.TransitConfig) {
			v.reply = func(w http.ResponseWriter) bool {
				w.WriteHeader(503)
				w.Write([]byte(`{"errors":["Vault is sealed"]}`))
				return true
			}
		}, "status 503: Vault is sealed"},
		"a redirect": {func(_ *testing.T, v *transit, _ *keyring.TransitConfig) {
			v.reply = func(w http.ResponseWriter) bool {
				w.Header().Set("Location", "http://127.0.0.1:1/")
				w.WriteHeader(307)
				return true
			}
		}, "status 307"},
		"a reply that is not JSON": {func(_ *testing.T, v *transit, _ *keyring.TransitConfig) {
			v.reply = func(w http.ResponseWriter) bool { w.Write([]byte("<html>")); return true }
		}, "not JSON"},
		"a reply with a short key": {func(_ *testing.T, v *transit, _ *keyring.TransitConfig) {
			v.reply = func(w http.ResponseWriter) bool { w.Write([]byte(`{"data":{"plaintext":"c2hvcnQ="}}`)); return true }
		}, "no key of 32 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			fake, config := startTransit(t)
			path := filepath.Join(t.TempDir(), "ring")
			if err := keyring.CreateWrapped(t.Context(), path, newTransit(t, config)); err != nil {
				t.Fatal(err)
			}
			test.change(t, fake, &config)
			_, err := keyring.LoadWrapped(t.Context(), path, newTransit(t, config))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
			for _, value := range fake.values {
				if strings.Contains(err.Error(), value) {
					t.Error("the error quotes the key")
				}
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error quotes the token")
			}
		})
	}
}

func TestTransitConfigReportsEveryProblem(t *testing.T) {
	tests := map[string]struct {
		config keyring.TransitConfig
		want   string
	}{
		"complete":                {keyring.TransitConfig{Address: "https://vault:8200", TokenFile: "/t", Key: "k"}, ""},
		"loopback without TLS":    {keyring.TransitConfig{Address: "http://127.0.0.1:8200", TokenFile: "/t", Key: "k", Mount: "teams/transit"}, ""},
		"nothing":                 {keyring.TransitConfig{}, "address tokenFile key"},
		"plain http over network": {keyring.TransitConfig{Address: "http://vault:8200", TokenFile: "/t", Key: "k"}, "address"},
		"credentials in the URL":  {keyring.TransitConfig{Address: "https://u:canary@vault:8200", TokenFile: "/t", Key: "k"}, "address"},
		"a key that climbs":       {keyring.TransitConfig{Address: "https://vault", TokenFile: "/t", Key: "../sys", Mount: "/transit/"}, "key mount"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var fields []string
			test.config.Check(func(field, value, want string) {
				fields = append(fields, field)
				if strings.Contains(value, "canary") || want == "" {
					t.Errorf("%s: got value %q, want %q: it shows a credential or expects nothing", field, value, want)
				}
			})
			if got := strings.Join(fields, " "); got != test.want {
				t.Errorf("got problems in %q, want %q", got, test.want)
			}
		})
	}
}
