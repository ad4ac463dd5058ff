package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"unicode/utf8"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// Path is where the ledger's API is served: POST appends, GET below it reads one record.
const Path = "/v1/evidence"

// maxRequest bounds a submitted entry.
const maxRequest = 128 << 10

// problem is the body of an answer that is not a success.
type problem struct {
	Kind   activities.Kind `json:"kind"`
	Detail string          `json:"detail"`
}

// Handler serves the ledger to zones. The peer function returns the identity that the connection's client
// certificate has proven; a request for which it fails is refused.
func (l *Ledger) Handler(peer func(*http.Request) (string, error)) http.Handler {
	mux := http.NewServeMux()
	authenticated := func(serve func(submitter string, r *http.Request) (any, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			submitter, err := peer(r)
			if err != nil || submitter == "" {
				answer(w, nil, activities.Errorf(activities.Denied, "submit evidence: the client has no verified identity"))
				return
			}
			body, err := serve(submitter, r)
			answer(w, body, err)
		}
	}
	mux.Handle("POST "+Path, authenticated(func(submitter string, r *http.Request) (any, error) {
		entry, err := decodeEntry(http.MaxBytesReader(nil, r.Body, maxRequest))
		if err != nil {
			return nil, err
		}
		return l.Append(r.Context(), submitter, entry)
	}))
	mux.Handle("GET "+Path+"/{id}", authenticated(func(_ string, r *http.Request) (any, error) {
		return l.Record(r.Context(), r.PathValue("id"))
	}))
	return mux
}

// decodeEntry reads one entry, strictly.
func decodeEntry(body io.Reader) (record.Entry, error) {
	text, err := io.ReadAll(body)
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return record.Entry{}, invalid("read entry: longer than %d bytes", large.Limit)
	}
	if err != nil {
		return record.Entry{}, transient("read entry: %w", err)
	}
	var entry record.Entry
	if err := strict(text, &entry); err != nil {
		return record.Entry{}, invalid("read entry: %w", err)
	}
	return entry, nil
}

// strict decodes one JSON value and refuses unknown fields, anything after it, and text that JSON would
// change silently.
func strict(text []byte, value any) error {
	if !utf8.Valid(text) {
		return errors.New("not valid UTF-8")
	}
	if _, err := Canonical(text); err != nil { // duplicate names, half surrogates
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	return decoder.Decode(value)
}

// answer writes the body or the error.
func answer(w http.ResponseWriter, body any, err error) {
	status := http.StatusOK
	if err != nil {
		status = statusOf(activities.KindOf(err))
		body = problem{activities.KindOf(err), err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: it asks again
}

func statusOf(kind activities.Kind) int {
	switch kind {
	case activities.Invalid:
		return http.StatusBadRequest
	case activities.Denied:
		return http.StatusForbidden
	case activities.NotFound:
		return http.StatusNotFound
	case activities.Conflict, activities.Fenced, activities.Failed:
		return http.StatusConflict
	case activities.Throttled:
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}
