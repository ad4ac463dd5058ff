// Package installation opens what one process of an installation needs - engine, store, codec, ledger,
// API - from its configuration file, or from the state directory of a castellan-dev on the same machine.
package installation

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"

	"castellan.dev/activities"
	"castellan.dev/activities/issue/stepca"
	"castellan.dev/activities/record"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/config"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/ledger"
	"castellan.dev/internal/servicedb"
	"castellan.dev/internal/state"
	"castellan.dev/internal/telemetry"
	"castellan.dev/workers"
)

// Installation is what a process knows of the installation that it belongs to. One goroutine opens its
// parts; the parts themselves are safe for concurrent use.
type Installation struct {
	Config    *config.Config
	Dir       state.Dir        // where castellan-dev or this process keeps its state
	Endpoints *state.Endpoints // of the castellan-dev in Dir; nil where there is none
	Logger    *slog.Logger
	Now       func() time.Time

	Telemetry *telemetry.Telemetry // installed in connections to the engine; nil: they tell nothing

	identities map[string]*identity.Source // that were opened: one per name, so that connections share it
}

// Open reads the configuration: the file that is named, or castellan.yaml in the state directory. Every
// problem is reported at once.
func Open(file string, dir state.Dir, logger *slog.Logger) (*Installation, error) {
	i := &Installation{Dir: dir, Logger: logger, Now: time.Now}
	if file == "" {
		file = dir.Config()
	}
	cfg, problems := config.Load(file)
	if cfg != nil {
		problems = append(problems, cfg.Check(workers.Catalogue())...)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	i.Config = cfg
	if cfg.State != "" && i.Dir == "" {
		i.Dir = state.Dir(cfg.State)
	}
	endpoints, err := i.Dir.Endpoints()
	switch {
	case err == nil:
		i.Endpoints = &endpoints
	case activities.KindOf(err) != activities.NotFound:
		return nil, err
	}
	return i, nil
}

// embedded reports whether the installation runs on a castellan-dev: its engine is not configured.
func (i *Installation) embedded() bool { return i.Endpoints != nil && i.Config.Engine.Address == "" }

// Embedded says how the embedded authority is reached; nil where there is none.
func (i *Installation) Embedded() *stepca.Config {
	if i.Endpoints == nil {
		return nil
	}
	return workers.EmbeddedIssuer(i.Endpoints.CA)
}

// Engine connects to Temporal as the named identity. On a castellan-dev the address and the identity
// come from its state directory. Otherwise Temporal's own environment variables and profile file
// apply, and the configuration's engine section overrides them.
func (i *Installation) Engine(ctx context.Context, name string) (client.Client, *codec.Codec, error) {
	options, err := i.engineOptions(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	ring, err := i.codecKeys(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("open codec keyring: %w", err)
	}
	sealed, err := codec.New(ring, options.Namespace)
	if err != nil {
		return nil, nil, err
	}
	codec.Install(&options, sealed)
	i.Telemetry.Install(&options)
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to Temporal at %s as %q: %w", options.HostPort, name, err)
	}
	return c, sealed, nil
}

func (i *Installation) engineOptions(ctx context.Context, name string) (client.Options, error) {
	if i.embedded() {
		source, err := i.Identity(ctx, name)
		if err != nil {
			return client.Options{}, err
		}
		return client.Options{
			HostPort: i.Endpoints.Engine, Namespace: i.Endpoints.Namespace, Identity: name, Logger: i.Logger,
			ConnectionOptions: client.ConnectionOptions{TLS: source.TLSClient(identity.Engine)},
		}, nil
	}
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return client.Options{}, fmt.Errorf("read Temporal's environment and profile: %w", err)
	}
	engine := i.Config.Engine
	options.Logger, options.Identity = i.Logger, name
	if engine.Address != "" {
		options.HostPort = engine.Address
	}
	if engine.Namespace != "" {
		options.Namespace = engine.Namespace
	}
	if options.Namespace == "" {
		options.Namespace = "default"
	}
	if engine.APIKeyFile != "" {
		options.Credentials = client.NewAPIKeyDynamicCredentials(func(context.Context) (string, error) {
			text, err := os.ReadFile(engine.APIKeyFile)
			return strings.TrimSpace(string(text)), err
		})
	}
	if !engine.TLS.IsZero() {
		if options.ConnectionOptions.TLS, err = engineTLS(engine.TLS); err != nil {
			return client.Options{}, err
		}
	}
	return options, nil
}

// engineTLS reads the client certificate anew for every handshake, so that its rotation needs no restart.
func engineTLS(t config.EngineTLS) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read engine.tls.caFile: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read engine.tls.caFile: %s holds no certificate", t.CAFile)
		}
	}
	certificate, key := t.CertFile, t.KeyFile
	if t.IdentityFile != "" {
		certificate, key = t.IdentityFile, t.IdentityFile
	}
	if certificate != "" {
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certificate, key)
			return &pair, err
		}
	}
	return out, nil
}

// Database opens the service database.
func (i *Installation) Database(ctx context.Context) (*servicedb.DB, error) {
	c := servicedb.Config{Kind: servicedb.KindSQLite, Path: i.Dir.Database()}
	if !i.Config.Database.IsZero() {
		c = servicedb.Config{Kind: i.Config.Database.Kind()}
		if err := i.Config.Database.Decode(&c).Err(); err != nil {
			return nil, err
		}
	}
	return servicedb.Open(ctx, c)
}

// Ledger opens the evidence log for its one writer.
func (i *Installation) Ledger(ctx context.Context, database *servicedb.DB) (*ledger.Ledger, error) {
	c := i.Config.Ledger
	place, err := ledger.NewDirectory(cmp.Or(c.Checkpoints.Directory, i.Dir.Checkpoints()))
	if err != nil {
		return nil, err
	}
	return ledger.Open(ctx, database, ledger.Options{
		KeyFile: cmp.Or(c.KeyFile, i.Dir.LedgerKey()), Place: place, Interval: c.Checkpoints.Every,
		Project: servicedb.Project, Now: i.Now, Log: i.Logger,
	})
}

// apiURL is where the API answers.
func (i *Installation) apiURL() (string, error) {
	switch {
	case i.Config.API.PublicURL != "":
		return i.Config.API.PublicURL, nil
	case i.Endpoints != nil:
		return i.Endpoints.API, nil
	}
	return "", errors.New("api.publicURL is not configured, and no castellan-dev has run in the state directory")
}

// Recorder submits evidence to the ledger's one writer as the named identity.
func (i *Installation) Recorder(ctx context.Context, name string) (record.Recorder, error) {
	url := i.Config.Ledger.URL
	if url == "" {
		var err error
		if url, err = i.apiURL(); err != nil {
			return nil, err
		}
	}
	transport, err := i.http(ctx, name)
	if err != nil {
		return nil, err
	}
	return ledger.NewClient(url, transport), nil
}
