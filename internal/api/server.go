package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"castellan.dev/activities"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/servicedb"
)

// Role is what a caller may do.
type Role int

// The roles, each of which includes nothing of the others.
const (
	Nobody   Role = iota
	Zone          // submit evidence
	Viewer        // read
	Operator      // read and act
)

// ScheduleKeeper compares and reconciles schedules.
type ScheduleKeeper interface {
	Diff(ctx context.Context) (Schedules, error)
	Apply(ctx context.Context) (Schedules, error)
}

// Server answers the JSON interface.
type Server struct {
	Database  *servicedb.DB
	Temporal  client.Client
	Evidence  http.Handler // of the ledger: POST /v1/evidence
	Export    http.Handler // of the ledger: GET /v1/evidence
	Schedules ScheduleKeeper
	// ChangeKey replaces the ledger's signing key and returns the next one; nil: no ledger is here.
	ChangeKey func(ctx context.Context, actor, reason string) (key string, err error)
	Authority *identity.Authority // signs renewals of castellan's own identities; nil: they are renewed elsewhere
	RoleOf    func(identity string) Role
	Host      func(target string) (host string, declared bool) // which host's worker drives a target, if one must
	Now       func() time.Time
	Logger    *slog.Logger
}

// body bounds what a request may send.
const body = 64 << 10

// Handler returns the interface. It must be served with verified client certificates.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	read := func(pattern string, h func(*http.Request) (any, error)) {
		mux.Handle(pattern, s.guard(h, Viewer, Operator))
	}
	act := func(pattern string, h func(*http.Request) (any, error)) { mux.Handle(pattern, s.guard(h, Operator)) }
	read("GET /v1/certificates", s.certificates)
	read("GET /v1/certificates/{name}", s.certificate)
	act("POST /v1/certificates/{name}/rotate", s.rotate)
	act("POST /v1/certificates/{name}/messages/{message}", s.message)
	read("GET /v1/certificates/{name}/live", s.live)
	read("GET /v1/rotations", s.rotations)
	read("GET /v1/rotations/{id}", s.rotation)
	read("GET /v1/schedules", func(r *http.Request) (any, error) { return s.Schedules.Diff(r.Context()) })
	act("POST /v1/schedules/apply", func(r *http.Request) (any, error) { return s.Schedules.Apply(r.Context()) })
	mux.Handle("POST /v1/evidence", s.allow(s.Evidence, Zone))
	act("POST /v1/evidence/key", s.changeKey)
	mux.HandleFunc("POST /v1/identity", s.renew)
	mux.Handle("GET /v1/evidence", s.allow(s.Export, Viewer, Operator))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		Refuse(w, activities.Errorf(activities.NotFound, "%s %s is not part of this interface", r.Method, r.URL.Path))
	})
	return mux
}

// Caller returns the verified identity of a request's peer.
func Caller(r *http.Request) (string, error) {
	if r.TLS == nil {
		return "", errors.New("the connection is not encrypted")
	}
	return identity.Peer(r.TLS)
}

// allow lets only callers in one of the roles through.
func (s *Server) allow(next http.Handler, roles ...Role) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := Caller(r)
		if err != nil {
			Refuse(w, activities.Errorf(activities.Denied, "identify caller: %w", err))
			return
		}
		role := s.RoleOf(caller)
		for _, allowed := range roles {
			if role == allowed {
				next.ServeHTTP(w, r)
				return
			}
		}
		s.Logger.Warn("request refused", "caller", caller, "method", r.Method, "path", r.URL.Path)
		Refuse(w, activities.Errorf(activities.Denied, "identity %q may not %s %s", caller, r.Method, r.URL.Path))
	})
}

// guard turns a function into a handler for callers in one of the roles.
func (s *Server) guard(h func(*http.Request) (any, error), roles ...Role) http.Handler {
	return s.allow(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, body)
		answer, err := h(r)
		if err != nil {
			Refuse(w, err)
			return
		}
		reply(w, answer)
	}), roles...)
}

func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(answer) // the client notices a cut connection by itself
}

// decode reads a JSON body strictly. An empty body is the zero request.
func decode(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil && err.Error() != "EOF" {
		return activities.Errorf(activities.Invalid, "decode request body: %w", err)
	}
	return nil
}

// Refuse answers with the one sentence that an error is, and the status that fits its kind.
func Refuse(w http.ResponseWriter, err error) {
	problem := Problem{Error: err.Error(), Kind: string(activities.KindOf(err))}
	status := http.StatusInternalServerError
	switch activities.KindOf(err) {
	case activities.Invalid:
		status = http.StatusBadRequest
	case activities.Denied:
		status = http.StatusForbidden
	case activities.NotFound:
		status = http.StatusNotFound
	case activities.Conflict, activities.Failed, activities.Fenced:
		status = http.StatusConflict
	case activities.Throttled:
		status = http.StatusTooManyRequests
	case activities.Transient, activities.Uncertain:
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(problem)
}

// engineError classifies what the engine answered.
func engineError(act string, err error) error {
	var missing *serviceerror.NotFound
	var denied *serviceerror.PermissionDenied
	var invalid *serviceerror.InvalidArgument
	var app *temporal.ApplicationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing):
		return activities.Errorf(activities.NotFound, "%s: nothing is running", act)
	case errors.As(err, &denied):
		return activities.Errorf(activities.Denied, "%s: the engine refused", act)
	case errors.As(err, &invalid):
		return activities.Errorf(activities.Invalid, "%s: %w", act, err)
	case errors.As(err, &app):
		return activities.Errorf(activities.Conflict, "%s", app.Message())
	}
	return activities.Errorf(activities.Transient, "%s: %w", act, err)
}

// pageOf reads limit and cursor.
func pageOf(r *http.Request) (servicedb.Page, error) {
	page := servicedb.Page{Cursor: r.URL.Query().Get("cursor")}
	if text := r.URL.Query().Get("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 1 || limit > 1000 {
			return page, activities.Errorf(activities.Invalid, "limit is %q, want a number from 1 to 1000", text)
		}
		page.Limit = limit
	}
	return page, nil
}

// momentOf reads an RFC 3339 time or a duration from now.
func (s *Server) momentOf(r *http.Request, name string) (time.Time, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return s.Now().Add(d), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, activities.Errorf(activities.Invalid, "%s is %q, want a time such as 2026-03-01T10:00:00Z or a duration such as 72h", name, text)
	}
	return at, nil
}

func missing(target string) error {
	return activities.Errorf(activities.NotFound, "certificate %q is not in the configuration", fmt.Sprint(target))
}
