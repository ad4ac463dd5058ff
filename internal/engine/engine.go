package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/metrics"
	"go.temporal.io/server/common/primitives"
	sqliteschema "go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"

	"castellan.dev/internal/identity"
)

// Config says how an engine is started. Only Dir and Identity are required.
type Config struct {
	Dir       string           // holds the engine's files and nothing else's
	Port      int              // of the frontend, on loopback; zero takes a free one
	Identity  *identity.Source // the frontend's own, named identity.Engine
	Namespace string           // empty means DefaultNamespace
	Retention time.Duration    // of closed workflows in a new namespace; zero means DefaultRetention
	Logger    *slog.Logger     // gets warnings and errors; the rest at debug level; nil means silence

	// Untuned leaves the server on the defaults that its makers chose for clusters. It exists so
	// that benchmarks can say what the tuning buys.
	Untuned bool

	// What the measurements vary; zero values take the tuned defaults.
	connections int
	shards      int32
	synchronous string
}

// Defaults of Config.
const (
	DefaultNamespace = "castellan"
	DefaultRetention = 30 * 24 * time.Hour
)

const stopTimeout = 20 * time.Second

func (c *Config) applyDefaults() {
	if c.Namespace == "" {
		c.Namespace = DefaultNamespace
	}
	if c.Retention <= 0 {
		c.Retention = DefaultRetention
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.connections == 0 {
		// More connections make SQLite's readers upgrade to writers against each other: the server
		// then sees "database is locked" in every second workflow and retries.
		c.connections = 1
	}
	if c.shards == 0 {
		c.shards = 1
	}
	if c.synchronous == "" {
		// No sync per commit: a killed process loses nothing, a power cut perhaps the last moments,
		// which rotations repeat under their fences by observing (store and ledger do sync).
		c.synchronous = "normal"
	}
}

// Engine is a running server.
type Engine struct {
	config  Config
	address string
	server  temporal.Server
	quiet   *atomic.Bool
	unlock  func()
	stop    func() error
}

// Start runs a server over the files in config.Dir, making them on first use, and returns when it
// answers. What ran when the previous server ended, however it ended, continues.
func Start(ctx context.Context, config Config) (*Engine, error) {
	config.applyDefaults()
	if config.Identity == nil || config.Identity.Name() != identity.Engine {
		return nil, fmt.Errorf("start engine: the frontend needs the identity %q", identity.Engine)
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	config.Dir = dir
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	unlock, err := lock(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	e := &Engine{config: config, quiet: new(atomic.Bool), unlock: unlock}
	e.stop = sync.OnceValue(e.stopServer)
	if err := e.start(ctx); err != nil {
		_ = e.stop() // the start's error says more
		return nil, fmt.Errorf("start engine: %w", err)
	}
	return e, nil
}

func (e *Engine) start(ctx context.Context) error {
	sql := e.config.database()
	if err := prepare(e.config.Dir, func() error { return sqliteschema.SetupSchema(sql) }); err != nil {
		return err
	}
	if err := e.config.createNamespace(sql); err != nil {
		return err
	}
	if err := e.build(sql); err != nil {
		return err
	}
	started := make(chan error, 1)
	go func() { started <- e.server.Start() }()
	select {
	case err := <-started:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return e.reconcileSearchAttributes(ctx)
}

// build makes the server and opens its ports, with other ports if one was taken meanwhile.
func (e *Engine) build(sql *config.SQL) error {
	transport, err := newTransport(e.config.Identity)
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		ports, err := choosePorts(e.config.Port)
		if err != nil {
			return err
		}
		e.address = hostPort(ports[primitives.FrontendService])
		e.server, err = e.newServer(sql, ports, transport)
		if err == nil || attempt == 4 {
			return err
		}
	}
}

func (e *Engine) newServer(sql *config.SQL, ports map[primitives.ServiceName]int, transport *transport) (server temporal.Server, err error) {
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case fatal:
			err = errors.New(string(cause))
		default:
			panic(cause)
		}
	}()
	var names []string
	for _, name := range services() {
		names = append(names, string(name))
	}
	serverConfig, hosts := e.config.configure(sql, ports)
	guard := guard{namespace: e.config.Namespace}
	return temporal.NewServer(
		temporal.WithConfig(serverConfig),
		temporal.ForServices(names),
		temporal.WithStaticHosts(hosts),
		temporal.WithTLSConfigFactory(transport),
		temporal.WithLogger(serverLog{logger: e.config.Logger, quiet: e.quiet}),
		temporal.WithDynamicConfigClient(settings(e.config.Untuned)),
		temporal.WithCustomMetricsHandler(metrics.NoopMetricsHandler),
		temporal.WithAuthorizer(guard),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return guard }),
	)
}

// Stop ends the server. It is quiet, may be called more than once and takes seconds at most; what
// does not end in time is as safe as after a crash.
func (e *Engine) Stop() error { return e.stop() }

func (e *Engine) stopServer() error {
	e.quiet.Store(true)
	defer e.unlock()
	if e.server == nil {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- e.server.Stop() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("stop engine: %w", err)
		}
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("stop engine: services were still ending after %v", stopTimeout)
	}
}

// Address returns host and port of the frontend.
func (e *Engine) Address() string { return e.address }

// Namespace returns the one namespace that castellan's identities may use.
func (e *Engine) Namespace() string { return e.config.Namespace }

// ClientOptions returns what a client that acts as source needs. Callers add their data converter
// and interceptors.
func (e *Engine) ClientOptions(source *identity.Source) client.Options {
	return client.Options{
		HostPort:          e.address,
		Namespace:         e.config.Namespace,
		Identity:          source.Name(),
		Logger:            e.config.Logger,
		ConnectionOptions: client.ConnectionOptions{TLS: source.TLSClient(identity.Engine)},
	}
}

// Dial connects a client that acts as source.
func (e *Engine) Dial(ctx context.Context, source *identity.Source) (client.Client, error) {
	c, err := client.DialContext(ctx, e.ClientOptions(source))
	if err != nil {
		return nil, fmt.Errorf("dial engine as %q: %w", source.Name(), err)
	}
	return c, nil
}

// Environment returns the variables, NAME=value, with which the public `temporal` command line and
// the SDKs connect with the identity in files.
func (e *Engine) Environment(files identity.Files) []string {
	return Environment(e.address, e.config.Namespace, files)
}

// Environment is what [Engine.Environment] returns, for a process beside the engine's own.
func Environment(address, namespace string, files identity.Files) []string {
	return []string{
		"TEMPORAL_ADDRESS=" + address,
		"TEMPORAL_NAMESPACE=" + namespace,
		"TEMPORAL_TLS=true",
		"TEMPORAL_TLS_SERVER_CA_CERT_PATH=" + files.Roots,
		"TEMPORAL_TLS_CLIENT_CERT_PATH=" + files.Pair,
		"TEMPORAL_TLS_CLIENT_KEY_PATH=" + files.Pair,
	}
}
