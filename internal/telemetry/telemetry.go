package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/interceptor"

	"castellan.dev/internal/config"
	"castellan.dev/internal/version"
)

// Telemetry is what one process tells.
type Telemetry struct {
	config   config.Telemetry
	logger   *slog.Logger
	registry *prometheus.Registry
	listener net.Listener // of the metrics; nil: not served
	meters   *metric.MeterProvider
	traces   *trace.TracerProvider
	tracing  interceptor.Interceptor
	handler  client.MetricsHandler
}

// Options say who tells.
type Options struct {
	Service string // castellan-dev, castellan-serve, castellan-worker/privileged ...
	Logger  *slog.Logger
	// WithoutMetrics leaves telemetry.metrics to another process of the same configuration.
	WithoutMetrics bool
}

// New opens what the configuration asks for. Close ends it.
func New(ctx context.Context, c config.Telemetry, options Options) (_ *Telemetry, err error) {
	t := &Telemetry{config: c, logger: options.Logger, registry: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			t.Close(ctx)
		}
	}()
	if c.Metrics.Listen != "" && !options.WithoutMetrics {
		if err := t.openMetrics(); err != nil {
			return nil, err
		}
	}
	if c.Traces.Endpoint != "" {
		if err := t.openTraces(ctx, options.Service); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Telemetry) openMetrics() (err error) {
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(exporter.WithRegisterer(t.registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return fmt.Errorf("open metrics: %w", err)
	}
	t.meters = metric.NewMeterProvider(metric.WithReader(reader))
	t.handler = opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
		Meter: t.meters.Meter("temporal-sdk-go"), UseMonotonicCounters: true,
		// A metric that cannot be made must not end the work that it would have counted.
		OnError: func(err error) { t.logger.Warn("make metric", "error", err) },
	})
	if t.listener, err = net.Listen("tcp", t.config.Metrics.Listen); err != nil {
		return fmt.Errorf("listen on telemetry.metrics.listen: %w", err)
	}
	return nil
}

func (t *Telemetry) openTraces(ctx context.Context, service string) error {
	options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(t.config.Traces.Endpoint)}
	if loopback(t.config.Traces.Endpoint) {
		options = append(options, otlptracegrpc.WithInsecure()) // nothing leaves the machine
	}
	sender, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return fmt.Errorf("open traces: %w", err)
	}
	t.traces = trace.NewTracerProvider(trace.WithBatcher(sender), trace.WithResource(resource.NewSchemaless(
		attribute.String("service.name", service), attribute.String("service.version", version.Version))))
	t.tracing, err = opentelemetry.NewTracingInterceptor(opentelemetry.TracerOptions{
		Tracer: t.traces.Tracer("castellan"), DisableBaggage: true,
		// A history may hold headers of another tracer; they are no reason to stop a rotation.
		AllowInvalidParentSpans: true,
	})
	if err != nil {
		return fmt.Errorf("open traces: %w", err)
	}
	return nil
}

// loopback reports whether the endpoint is on this machine.
func loopback(endpoint string) bool {
	host, _, err := net.SplitHostPort(endpoint)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// Install lets a client of the engine, and every worker made with it, tell. On a nil Telemetry it does
// nothing.
func (t *Telemetry) Install(options *client.Options) {
	if t == nil {
		return
	}
	if t.handler != nil {
		options.MetricsHandler = t.handler
	}
	if t.tracing != nil {
		options.Interceptors = append(options.Interceptors, t.tracing)
	}
}

// Register adds collectors to what the metrics tell.
func (t *Telemetry) Register(list ...prometheus.Collector) error {
	for _, c := range list {
		if err := t.registry.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// Address returns where the metrics are served; empty: nowhere.
func (t *Telemetry) Address() string {
	if t.listener == nil {
		return ""
	}
	return t.listener.Addr().String()
}

// Handler serves the metrics. What cannot be collected is left out, and the rest is served.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4,
		ErrorLog: slog.NewLogLogger(t.logger.Handler(), slog.LevelWarn),
	})
}

// Run serves the metrics until the context ends.
func (t *Telemetry) Run(ctx context.Context) error {
	if t.listener == nil {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", t.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(t.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// Close sends what was not sent yet and ends the rest.
func (t *Telemetry) Close(ctx context.Context) error {
	var failures []error
	if t.traces != nil {
		failures = append(failures, t.traces.Shutdown(ctx))
	}
	if t.meters != nil {
		failures = append(failures, t.meters.Shutdown(ctx))
	}
	if t.listener != nil {
		if err := t.listener.Close(); !errors.Is(err, net.ErrClosed) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}
