// Package dev composes castellan-dev: one process with an embedded Temporal, an embedded certificate
// authority, the encrypted file store, SQLite, the API, the web page, and every zone, on loopback, with
// all state in one directory. Nothing that is meant for production imports it.
package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"golang.org/x/sync/errgroup"

	"castellan.dev/activities"
	"castellan.dev/activities/store/file"
	"castellan.dev/internal/ca"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/config"
	"castellan.dev/internal/engine"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/ledger"
	"castellan.dev/internal/serve"
	"castellan.dev/internal/servicedb"
	"castellan.dev/internal/state"
	"castellan.dev/internal/telemetry"
	"castellan.dev/internal/web"
	"castellan.dev/workers"
)

// Options say how to run.
type Options struct {
	State  state.Dir
	Config *config.Config
	Zones  []activities.Zone // zones to serve in this process; record is always served
	Ports  Ports
	Now    func() time.Time
	Logger *slog.Logger
	Life   time.Duration // of castellan's own certificates; zero: the default
}

// Ports are the loopback ports; zero takes a free one.
type Ports struct{ Engine, API, Web, CA int }

// Process is a running castellan-dev.
type Process struct {
	options  Options
	cleanup  []func()
	sources  map[string]*identity.Source
	ca       *ca.CA
	engine   *engine.Engine
	client   client.Client
	database *servicedb.DB
	ledger   *ledger.Ledger
	store    *file.Store
	workers  []worker.Worker
	service  *serve.Service
	api, web net.Listener
	settings workers.Settings
	codec    *codec.Codec

	telemetry *telemetry.Telemetry
	site      *web.Site
}

// Start starts everything in the order of dependence and undoes what it did when a part fails.
func Start(ctx context.Context, options Options) (_ *Process, err error) {
	if options.Config.Environment == config.Production {
		return nil, errors.New("environment is production: castellan-dev embeds a Temporal server that is not meant for it; run `castellan serve` and `castellan worker` against a Temporal cluster")
	}
	p := &Process{options: options, sources: map[string]*identity.Source{}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := options.State.Make(); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		name  string
		start func(context.Context) error
	}{
		{"identities", p.startIdentities},
		{"certificate authority", p.startCA},
		{"engine", p.startEngine},
		{"stores", p.openStores},
		{"telemetry", p.openTelemetry},
		{"connection to the engine", p.connect},
		{"API", p.listen},
		{"zones", p.startZones},
		{"service", p.startService},
		{"web page", p.openWeb},
	} {
		if err := part.start(ctx); err != nil {
			return nil, fmt.Errorf("start %s: %w", part.name, err)
		}
	}
	return p, options.State.Publish(p.Endpoints())
}

// Endpoints returns where the process answers.
func (p *Process) Endpoints() state.Endpoints {
	return state.Endpoints{
		Engine: p.engine.Address(), Namespace: p.engine.Namespace(), API: "https://" + p.api.Addr().String(),
		Web: "http://" + p.web.Addr().String(), PID: os.Getpid(),
		CA: state.CA{URL: p.ca.URL(), Root: p.ca.RootFile(), Provisioner: p.ca.Provisioner(), PasswordFile: p.ca.PasswordFile(), CRL: p.ca.CRLURL()},
	}
}

// Run serves until the context ends, then stops in the reverse order.
func (p *Process) Run(ctx context.Context) error {
	defer p.close()
	group, ctx := errgroup.WithContext(ctx)
	for _, source := range p.sources {
		group.Go(func() error { return ignoreEnd(ctx, source.Run(ctx)) })
	}
	group.Go(func() error { return p.service.Run(ctx) })
	group.Go(func() error { return p.serveWeb(ctx) })
	group.Go(func() error { return p.telemetry.Run(ctx) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-p.ca.Done():
			if ctx.Err() != nil {
				return nil
			}
			return errors.New("the certificate authority stopped by itself")
		}
	})
	return group.Wait()
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// undo registers what close does, last first.
func (p *Process) undo(f func()) { p.cleanup = append(p.cleanup, f) }

func (p *Process) close() {
	for _, f := range slices.Backward(p.cleanup) {
		f()
	}
	p.cleanup = nil
}

// startIdentities opens castellan's own CA and obtains the certificate of every identity, afresh: a
// start after all of them have expired is like any other.
func (p *Process) startIdentities(ctx context.Context) error {
	dir := p.options.State.Identity()
	authority, err := identity.OpenAuthority(identity.AuthorityConfig{Dir: dir, Life: p.options.Life, Now: p.options.Now})
	if err != nil {
		return err
	}
	names := []string{identity.Engine, identity.Dev, identity.Serve, identity.Operator, identity.UI}
	for _, zone := range activities.Zones() {
		names = append(names, string(zone))
	}
	for _, host := range p.options.Config.Hosts {
		names = append(names, string(activities.Privileged)+"/"+host)
	}
	for _, name := range names {
		source, err := identity.NewSource(ctx, identity.SourceConfig{
			Name: name, Renewer: authority.Renewer(name), Files: identity.FilesIn(dir, name),
			Now: p.options.Now, Logger: p.options.Logger,
		})
		if err != nil {
			return err
		}
		p.sources[name] = source
	}
	return nil
}

func (p *Process) startCA(ctx context.Context) (err error) {
	p.ca, err = ca.Start(ctx, ca.Config{
		Dir: p.options.State.CA(), Listen: loopback(p.options.Ports.CA), Now: p.options.Now, Log: p.options.Logger,
	})
	if err != nil {
		return err
	}
	p.undo(func() {
		stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p.note("stop certificate authority", p.ca.Stop(stop))
	})
	return nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func (p *Process) startEngine(ctx context.Context) (err error) {
	p.engine, err = engine.Start(ctx, engine.Config{
		Dir: p.options.State.Engine(), Port: p.options.Ports.Engine, Identity: p.sources[identity.Engine], Logger: p.options.Logger,
	})
	if err != nil {
		return err
	}
	p.undo(func() { p.note("stop engine", p.engine.Stop()) })
	return nil
}

// openStores opens the encrypted store, the service database and the ledger.
func (p *Process) openStores(ctx context.Context) error {
	s := p.options.State
	ring, err := installation.OpenKeyring(s.StoreKeys())
	if err != nil {
		return err
	}
	if p.store, err = file.Open(s.Store(), ring, p.options.Now); err != nil {
		return err
	}
	if p.database, err = servicedb.Open(ctx, servicedb.Config{Kind: servicedb.KindSQLite, Path: s.Database()}); err != nil {
		return err
	}
	p.undo(func() { p.note("close service database", p.database.Close()) })
	place, err := ledger.NewDirectory(s.Checkpoints())
	if err != nil {
		return err
	}
	p.ledger, err = ledger.Open(ctx, p.database, ledger.Options{
		KeyFile: s.LedgerKey(), Place: place, Interval: p.options.Config.Ledger.Checkpoints.Every,
		Project: servicedb.Project, Now: p.options.Now, Log: p.options.Logger,
	})
	if err != nil {
		return err
	}
	p.undo(func() {
		stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p.note("close ledger", p.ledger.Close(stop))
	})
	return nil
}

func (p *Process) listen(context.Context) (err error) {
	if p.api, err = net.Listen("tcp", loopback(p.options.Ports.API)); err != nil {
		return err
	}
	p.undo(func() { p.api.Close() })
	if p.web, err = net.Listen("tcp", loopback(p.options.Ports.Web)); err != nil {
		return err
	}
	p.undo(func() { p.web.Close() })
	return nil
}

// startZones serves the zones that this process holds. Each zone records evidence under its own name,
// as it would from a process of its own.
func (p *Process) startZones(context.Context) error {
	start := func(w worker.Worker, err error) error {
		if err != nil {
			return err
		}
		if err := w.Start(); err != nil {
			return err
		}
		p.undo(w.Stop)
		return nil
	}
	for _, zone := range p.options.Zones {
		var err error
		switch zone {
		case activities.Control:
			err = start(workers.Control(p.settings), nil)
		case activities.Privileged:
			for _, host := range append([]string{""}, p.options.Config.Hosts...) {
				if err = start(workers.Privileged(p.settings, p.privileged(host), host)); err != nil {
					break
				}
			}
		case activities.Observe:
			err = start(workers.Observe(p.settings, workers.ObserveParts{
				Config: p.options.Config, Recorder: p.ledger.As(string(activities.Observe)), Now: p.options.Now,
				Embedded: workers.EmbeddedIssuer(p.Endpoints().CA),
			}))
		}
		if err != nil {
			return fmt.Errorf("zone %s: %w", zone, err)
		}
	}
	return nil
}

func (p *Process) privileged(host string) workers.PrivilegedParts {
	submitter := string(activities.Privileged)
	if host != "" {
		submitter += "/" + host
	}
	return workers.PrivilegedParts{
		Config: p.options.Config, Store: p.store, Recorder: p.ledger.As(submitter), Memory: p.options.State.Memory(),
		Embedded: workers.EmbeddedIssuer(p.Endpoints().CA), Now: p.options.Now,
	}
}

func (p *Process) startService(ctx context.Context) (err error) {
	p.service, err = serve.New(ctx, serve.Parts{
		Config: p.options.Config, Settings: p.settings, Converter: codec.NewDataConverter(p.codec),
		Database: p.database, Ledger: p.ledger,
		Identity: p.sources[identity.Serve], Listener: p.api, Now: p.options.Now, Logger: p.options.Logger,
	})
	return err
}

// note logs what went wrong while stopping; there is nobody left to return it to.
func (p *Process) note(act string, err error) {
	if err != nil {
		p.options.Logger.Warn(act, "error", err)
	}
}
