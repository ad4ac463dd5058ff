// Package serve is the heart of an installation: the API, the evidence ledger with its one writer, the
// record zone, the inventory, the schedules and their watchdog. `castellan serve` runs it against any
// Temporal, castellan-dev beside its embedded one.
package serve

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/worker"
	"golang.org/x/sync/errgroup"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/internal/config"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/ledger"
	"castellan.dev/internal/servicedb"
	"castellan.dev/workers"
)

// Parts are what the service is made of. The caller opened them and closes them.
type Parts struct {
	Config    *config.Config
	Settings  workers.Settings
	Converter converter.DataConverter // reads what the engine stores
	Database  *servicedb.DB
	Ledger    *ledger.Ledger
	Identity  *identity.Source // server side of the API
	Listener  net.Listener     // of the API
	// Authority renews the identities of other processes over the API; nil: they are renewed elsewhere.
	Authority *identity.Authority
	Now       func() time.Time
	Logger    *slog.Logger
}

// Service is a running heart.
type Service struct {
	parts  Parts
	record worker.Worker
	server *http.Server
	keeper *keeper
}

// New prepares the service: it makes the inventory what the configuration declares and reconciles the
// schedules, so that nothing is forgotten between two starts.
func New(ctx context.Context, parts Parts) (*Service, error) {
	if _, err := parts.Database.ApplyInventory(ctx, declared(parts.Config), parts.Now()); err != nil {
		return nil, fmt.Errorf("apply inventory: %w", err)
	}
	keeper, err := newKeeper(parts)
	if err != nil {
		return nil, err
	}
	applied, err := keeper.Apply(ctx)
	if err != nil {
		return nil, fmt.Errorf("apply schedules: %w", err)
	}
	if applied.Text != "" {
		parts.Logger.Info("schedules reconciled", "changes", applied.Text)
	}
	s := &Service{parts: parts, keeper: keeper}
	host := func(name string) (string, bool) {
		certificate, ok := parts.Config.Certificates[name]
		return workers.HostOf(certificate), ok
	}
	s.record = workers.Record(parts.Settings, parts.Database, host, parts.Now)
	server := &api.Server{
		Database: parts.Database, Temporal: parts.Settings.Engine, Schedules: keeper,
		Evidence: parts.Ledger.Handler(api.Caller), Export: exporter{parts.Ledger, parts.Logger},
		RoleOf: RoleOf, Now: parts.Now, Logger: parts.Logger,
		Host: host, Authority: parts.Authority,
		ChangeKey: func(ctx context.Context, actor, reason string) (string, error) {
			key, err := parts.Ledger.ChangeKey(ctx, actor, reason)
			return key.String(), err
		},
	}
	s.server = &http.Server{
		Handler: server.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(parts.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Run serves until the context ends. It returns the first failure of any part.
func (s *Service) Run(ctx context.Context) error {
	if err := s.record.Start(); err != nil {
		return fmt.Errorf("start record zone: %w", err)
	}
	defer s.record.Stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		listener := tls.NewListener(s.parts.Listener, s.parts.Identity.TLSServer())
		if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve API: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := s.server.Shutdown(stop); err != nil {
			return s.server.Close()
		}
		return nil
	})
	group.Go(func() error { return s.keeper.watch(ctx) })
	return group.Wait()
}

// RoleOf says what an identity may do on the API.
func RoleOf(name string) api.Role {
	zone, _, _ := strings.Cut(name, "/")
	switch {
	case name == identity.Operator || name == identity.Dev:
		return api.Operator
	case name == identity.UI:
		return api.Viewer
	case slices.Contains(activities.Zones(), activities.Zone(zone)):
		return api.Zone
	}
	return api.Nobody
}

// declared lists the configured targets for the inventory.
func declared(c *config.Config) []servicedb.DeclaredTarget {
	var list []servicedb.DeclaredTarget
	for _, name := range c.Targets() {
		certificate := c.Certificates[name]
		list = append(list, servicedb.DeclaredTarget{
			Name: name, Kind: "certificate", Owner: certificate.Owner, Policy: certificate.Policy,
			ExclusionGroup: c.Policies[cmp.Or(certificate.Policy, "default")].Group, Observed: certificate.Observe,
			Spec: spec(c, name),
		})
	}
	return list
}

// spec digests what a target's due date depends on, so that an edited policy is noticed under its old name.
func spec(c *config.Config, name string) string {
	resolved, err := c.PolicyOf(name)
	if err != nil {
		return ""
	}
	certificate := c.Certificates[name]
	text := fmt.Sprintf("%q %q %q %q %q %q %s", resolved.Sentences(), certificate.DNSNames, certificate.IPAddresses, certificate.URIs,
		certificate.Key, certificate.Issuer, certificate.Lifetime)
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// exporter streams the ledger.
type exporter struct {
	ledger *ledger.Ledger
	logger *slog.Logger
}

func (e exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/jsonl")
	if id := r.URL.Query().Get("record"); id != "" {
		if err := e.ledger.Prove(r.Context(), w, id); err != nil {
			api.Refuse(w, err)
		}
		return
	}
	if err := e.ledger.Export(r.Context(), w, ledger.Range{}); err != nil {
		// The status is sent; cutting the connection is the only way to say that the export is incomplete.
		e.logger.Error("export evidence", "error", err)
		panic(http.ErrAbortHandler)
	}
}
