package ca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/smallstep/certificates/acme"
	acmeapi "github.com/smallstep/certificates/acme/api"
	acmedb "github.com/smallstep/certificates/acme/db/nosql"
	"github.com/smallstep/certificates/api"
	apilog "github.com/smallstep/certificates/api/log"
	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/db"
)

// newServer puts step-ca's handlers on an HTTP server. step-ca's own server type is not used: it logs
// to stderr, tells systemd that this process is ready, wants its port before it listens, and waits up
// to a minute when it stops.
func newServer(ca *authority.Authority, database *database, found material, address string, log *slog.Logger) (*http.Server, error) {
	accounts, err := acmedb.New(database)
	if err != nil {
		return nil, fmt.Errorf("open the embedded CA's ACME tables: %w", err)
	}
	identity := &serverCertificate{make: ca.GetTLSCertificate}
	if _, err := identity.get(nil); err != nil {
		return nil, fmt.Errorf("make the embedded CA's own certificate: %w", err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(found.root)
	clients.AddCert(found.intermediate)

	base := authority.NewContext(context.Background(), ca)
	base = db.NewContext(base, database)
	base = acme.NewContext(base, accounts, acme.NewClient(), acme.NewLinker(address, "acme"), nil)
	base = apilog.WithErrorLogger(base, func(_ http.ResponseWriter, request *http.Request, err error) {
		log.Debug("embedded CA refused a request", "method", request.Method, "path", request.URL.Path, "error", err.Error())
	})
	return &http.Server{
		Handler: http.MaxBytesHandler(routes(), maxBody),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: identity.get,
			ClientAuth:     tls.VerifyClientCertIfGiven, // rekeying proves possession of the current key
			ClientCAs:      clients,
		},
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       15 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}, nil
}

func routes() http.Handler {
	var turn sync.Mutex
	mux := chi.NewRouter()
	mux.Use(middleware.GetHead)
	mux.Group(func(r chi.Router) {
		r.Use(oneAtATime(&turn))
		api.Route(r)
		r.Route("/1.0", func(r chi.Router) { api.Route(r) })
	})
	mux.Route("/acme", func(r chi.Router) { acmeapi.Route(r) })
	return mux
}

// oneAtATime lets one request act at a time. step-ca v0.30.2 looks tokens up in a way that is a data
// race between any two requests with a token: provisioner.Audiences.All appends to a shared slice. It
// costs little, because the database takes one writer at a time anyway. A request is read before it
// gets its turn, so a slow client holds up nobody.
func oneAtATime(turn *sync.Mutex) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					http.Error(w, "the request could not be read", http.StatusBadRequest)
					return
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
				turn.Lock()
				defer turn.Unlock()
			}
			next.ServeHTTP(w, r)
		})
	}
}

func crlHandler(ca *authority.Authority) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		api.CRL(w, r.WithContext(authority.NewContext(r.Context(), ca)))
	})
}

// serverCertificate makes the authority's own certificate and renews it when a client connects late in
// its life, so that no timer is needed and a machine that slept recovers by itself.
type serverCertificate struct {
	make func() (*tls.Certificate, error)

	mu      sync.Mutex
	current *tls.Certificate
}

func (s *serverCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// step-ca dates the certificate by the system's clock, whatever castellan's says.
	if s.current != nil && time.Until(s.current.Leaf.NotAfter) > renewAhead {
		return s.current, nil
	}
	made, err := s.make()
	if err != nil {
		return nil, err
	}
	s.current = made
	return made, nil
}
