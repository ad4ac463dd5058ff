package codec

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// maxBody bounds a request to the handler: a page of a history, in base64.
const maxBody = 16 << 20

// NewHandler returns the codec endpoint for the Web UI and the `temporal` command line: POST .../decode
// opens payloads. It is a decryption oracle and authenticates nobody: whoever mounts it must. It never
// encrypts, so nobody can have arguments sealed that a worker would then trust.
//
// audit is called once for every request that was answered with decrypted payloads, before the answer,
// with their number. A payload that cannot be opened, a plain one included, is returned as it came.
func NewHandler(c *Codec, audit func(r *http.Request, payloads int)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		status, problem := admit(r, c.namespace)
		if status != http.StatusOK {
			http.Error(w, problem, status)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			http.Error(w, "body is too large", http.StatusRequestEntityTooLarge)
			return
		}
		var payloads commonpb.Payloads
		if err != nil || (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &payloads) != nil {
			http.Error(w, "body is not a list of payloads", http.StatusBadRequest)
			return
		}
		decrypted := 0
		for i, payload := range payloads.GetPayloads() {
			if opened, err := c.open(payload); err == nil {
				payloads.Payloads[i] = opened
				decrypted++
			}
		}
		answer, err := protojson.Marshal(&payloads)
		if err != nil {
			http.Error(w, "payloads cannot be encoded", http.StatusInternalServerError)
			return
		}
		if decrypted > 0 {
			audit(r, decrypted)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer) // the caller went away; nobody is left to tell
	})
}

// admit checks everything about a request but its body.
func admit(r *http.Request, namespace string) (status int, problem string) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/encode"):
		return http.StatusForbidden, "this endpoint only decodes"
	case !strings.HasSuffix(r.URL.Path, "/decode"):
		return http.StatusNotFound, "want .../decode"
	case r.Method != http.MethodPost:
		return http.StatusMethodNotAllowed, "want POST"
	}
	// A form on another site cannot send JSON without asking first.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return http.StatusUnsupportedMediaType, "want application/json"
	}
	if asked := r.Header.Get("X-Namespace"); asked != "" && asked != namespace {
		return http.StatusForbidden, "this endpoint serves another namespace"
	}
	return http.StatusOK, ""
}
