package keyring

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"castellan.dev/internal/secret"
)

// maxReply bounds what is read of Vault's answer; a wrapped key takes a few hundred bytes.
const maxReply = 64 << 10

// TransitConfig says which transit key of which Vault wraps the ring's keys.
type TransitConfig struct {
	Address   string `yaml:"address"`   // https://vault.example:8200; plain http only on loopback
	TokenFile string `yaml:"tokenFile"` // file that holds the token, read anew for every call
	CAFile    string `yaml:"caFile"`    // PEM bundle that Vault's certificate must chain to; default: the system's
	Mount     string `yaml:"mount"`     // default: transit
	Key       string `yaml:"key"`       // name of the transit key
	Namespace string `yaml:"namespace"` // Vault namespace; default: none
}

// Check reports every problem of the configuration as field, value and expectation.
func (c TransitConfig) Check(report func(field, value, want string)) {
	u, err := url.Parse(c.Address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "":
		report("address", redactedAddress(u), "an https:// URL without credentials or query")
	case u.Scheme == "https":
	case u.Scheme == "http" && loopback(u.Hostname()):
	default:
		report("address", c.Address, "an https:// URL (http:// only to a loopback address)")
	}
	if c.TokenFile == "" {
		report("tokenFile", "", "the path of a file that holds Vault's token")
	}
	if !simplePath(c.Key) || strings.Contains(c.Key, "/") {
		report("key", c.Key, "the name of a transit key")
	}
	if c.Mount != "" && !simplePath(c.Mount) {
		report("mount", c.Mount, "a mount path without leading or trailing slash")
	}
}

// Transit wraps and unwraps keys with Vault's transit engine. It speaks Vault's HTTP API itself: two
// calls do not justify a client that also takes its address, token and TLS settings from the
// environment.
type Transit struct {
	config TransitConfig
	client *http.Client
}

// NewTransit returns a wrapper for a checked configuration.
func NewTransit(config TransitConfig) (*Transit, error) {
	var problems []error
	config.Check(func(field, value, want string) {
		problems = append(problems, fmt.Errorf("%s %q: want %s", field, value, want))
	})
	if len(problems) > 0 {
		return nil, fmt.Errorf("configure vault transit: %w", errors.Join(problems...))
	}
	if config.Mount == "" {
		config.Mount = "transit"
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if config.CAFile != "" {
		bundle, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("configure vault transit: %w", err)
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(bundle) {
			return nil, fmt.Errorf("configure vault transit: caFile %q: want at least one PEM certificate", config.CAFile)
		}
	}
	return &Transit{config: config, client: &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true},
		// A redirect would carry the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Unwrap decrypts one wrapped key: POST /v1/transit/decrypt/:name.
// https://developer.hashicorp.com/vault/api-docs/secret/transit#decrypt-data
func (t *Transit) Unwrap(ctx context.Context, wrapped string) (secret.Bytes, error) {
	var reply struct {
		Data struct {
			Plaintext string `json:"plaintext"`
		} `json:"data"`
	}
	if err := t.post(ctx, "decrypt", map[string]string{"ciphertext": wrapped}, &reply); err != nil {
		return secret.Bytes{}, err
	}
	key, err := base64.StdEncoding.DecodeString(reply.Data.Plaintext)
	if err != nil || len(key) != keySize {
		return secret.Bytes{}, fmt.Errorf("vault transit decrypt: reply holds no key of %d bytes", keySize)
	}
	return secret.New(key), nil
}

// Wrap encrypts one key: POST /v1/transit/encrypt/:name.
// https://developer.hashicorp.com/vault/api-docs/secret/transit#encrypt-data
func (t *Transit) Wrap(ctx context.Context, key secret.Bytes) (string, error) {
	var reply struct {
		Data struct {
			Ciphertext string `json:"ciphertext"`
		} `json:"data"`
	}
	request := map[string]string{"plaintext": base64.StdEncoding.EncodeToString(key.Reveal())}
	if err := t.post(ctx, "encrypt", request, &reply); err != nil {
		return "", err
	}
	if !strings.HasPrefix(reply.Data.Ciphertext, "vault:") {
		return "", errors.New("vault transit encrypt: reply holds no ciphertext")
	}
	return reply.Data.Ciphertext, nil
}

// post makes one call. Neither its request nor a successful reply ever appears in an error.
func (t *Transit) post(ctx context.Context, verb string, request map[string]string, reply any) error {
	fail := func(err error) error { return fmt.Errorf("vault transit %s: %w", verb, err) }
	token, err := t.token()
	if err != nil {
		return fail(err)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return fail(err)
	}
	address := strings.TrimSuffix(t.config.Address, "/") + "/v1/" + t.config.Mount + "/" + verb + "/" + t.config.Key
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return fail(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Vault-Request", "true")
	r.Header.Set("X-Vault-Token", string(token.Reveal()))
	if t.config.Namespace != "" {
		r.Header.Set("X-Vault-Namespace", t.config.Namespace)
	}
	response, err := t.client.Do(r)
	if err != nil {
		return fail(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return fail(err)
	}
	if response.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("status %d%s", response.StatusCode, vaultErrors(content)))
	}
	if json.Unmarshal(content, reply) != nil {
		return fail(errors.New("reply is not JSON"))
	}
	return nil
}

// token reads the token file.
func (t *Transit) token() (secret.Bytes, error) {
	info, err := os.Stat(t.config.TokenFile)
	if err != nil {
		return secret.Bytes{}, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return secret.Bytes{}, fmt.Errorf("token file %q has mode %#o, want no access for others", t.config.TokenFile, info.Mode().Perm())
	}
	content, err := os.ReadFile(t.config.TokenFile)
	if err != nil {
		return secret.Bytes{}, err
	}
	token := bytes.TrimSpace(content)
	if len(token) == 0 || bytes.ContainsAny(token, "\r\n") {
		return secret.Bytes{}, fmt.Errorf("token file %q does not hold one token", t.config.TokenFile)
	}
	return secret.New(token), nil
}

// vaultErrors renders Vault's own error list, shortened.
func vaultErrors(content []byte) string {
	var reply struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(content, &reply) != nil || len(reply.Errors) == 0 {
		return ""
	}
	text := strings.Join(reply.Errors, "; ")
	return ": " + text[:min(len(text), 200)]
}

// redactedAddress prints an address that may hold credentials.
func redactedAddress(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Redacted()
}

// loopback reports whether host can only be this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// simplePath reports whether s can stand in a URL path as it is.
func simplePath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." || url.PathEscape(part) != part {
			return false
		}
	}
	return true
}
