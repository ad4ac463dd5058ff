package telemetry

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/config"
	"castellan.dev/internal/servicedb"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func scrape(t *testing.T, c *Telemetry) string {
	t.Helper()
	response, err := http.Get("http://" + c.Address() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("got %s, %v: %s", response.Status, err, text)
	}
	return string(text)
}

func TestMetricsTellWhatTheDatabaseKnows(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	database, err := servicedb.Open(t.Context(), servicedb.Config{Kind: servicedb.KindSQLite, Path: filepath.Join(t.TempDir(), "service.db")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := database.ApplyInventory(t.Context(), []servicedb.DeclaredTarget{{Name: "payments", Kind: "certificate"}, {Name: "orders", Kind: "certificate"}}, now); err != nil {
		t.Fatal(err)
	}
	entries := []record.Entry{
		{Target: "payments", Facts: map[string]string{record.FactFingerprint: "aa", record.FactNotAfter: now.Add(time.Hour).Format(time.RFC3339), record.FactDueAt: now.Add(-time.Hour).Format(time.RFC3339)}},
		{Target: "payments", Rotation: "payments@1", Epoch: 1, Facts: map[string]string{
			record.FactState:      string(activities.RolledBack),
			record.FactStragglers: `[{"consumer":"edge","address":"10.0.0.7:443","standing":"previous"}]`,
		}},
		{Target: "orders", Rotation: "orders@2", Epoch: 2, Facts: map[string]string{record.FactState: string(activities.Published)}},
	}
	for _, entry := range entries {
		entry.Workflow, entry.Step, entry.Phase, entry.At = "rotate/"+entry.Target, "step", record.Outcome, now.Add(-time.Minute)
		if err := database.Tx(t.Context(), func(tx *servicedb.Tx) error { return servicedb.Project(t.Context(), tx, entry) }); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	told, err := New(t.Context(), config.Telemetry{Metrics: config.Metrics{Listen: "127.0.0.1:0"}}, Options{Service: "test", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- told.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := told.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if err := told.Register(Inventory(database, func() time.Time { return now }, logger)); err != nil {
		t.Fatal(err)
	}
	var options client.Options
	told.Install(&options)
	options.MetricsHandler.WithTags(map[string]string{"operation": "StartWorkflow"}).Counter("temporal_request").Inc(3)

	got := scrape(t, told)
	for _, want := range []string{
		"castellan_inventory_up 1", "castellan_targets 2", "castellan_targets_overdue 1", `castellan_certificate_expiry_seconds{target="payments"} 3600`,
		`castellan_rotations_ended{outcome="ROLLED_BACK"} 1`, `castellan_rotations_ended{outcome="RETIRED"} 0`, "castellan_rotations_open 1",
		`castellan_consumers{standing="previous"} 1`, "castellan_consumers_unverified 1", `temporal_request_total{operation="StartWorkflow"} 3`, "go_goroutines",
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
	if err := database.Close(); err != nil {
		t.Fatal(err)
	}
	got = scrape(t, told)
	if !strings.Contains(got, "\ncastellan_inventory_up 0") || !strings.Contains(got, "\ntemporal_request_total") || strings.Contains(got, "\ncastellan_targets ") {
		t.Errorf("without the database: got\n%s", got)
	}
	if !strings.Contains(log.String(), "collect metrics") {
		t.Error("nobody was told why")
	}
}

func TestNothingIsToldUnlessConfigured(t *testing.T) {
	told, err := New(t.Context(), config.Telemetry{}, Options{Service: "test", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	var options client.Options
	told.Install(&options)
	(*Telemetry)(nil).Install(&options)
	if told.Address() != "" || options.MetricsHandler != nil || len(options.Interceptors) != 0 {
		t.Errorf("got address %q and %+v", told.Address(), options)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := told.Run(ctx); err != nil {
		t.Error(err)
	}
}

// collecting is a trace collector that keeps what it is sent.
type collecting struct {
	collector.UnimplementedTraceServiceServer
	mu   sync.Mutex
	text strings.Builder
}

func (c *collecting) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.WriteString(protojson.Format(r))
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestTracesNameActivitiesAndHoldNoPayload(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, kept := grpc.NewServer(), &collecting{}
	collector.RegisterTraceServiceServer(server, kept)
	go server.Serve(listener)
	defer server.Stop()
	told, err := New(t.Context(), config.Telemetry{Traces: config.Traces{Endpoint: listener.Addr().String()}, Metrics: config.Metrics{Listen: "256.0.0.1:1"}},
		Options{Service: "castellan-test", Logger: quiet(), WithoutMetrics: true})
	if err != nil {
		t.Fatal(err)
	}
	var options client.Options
	told.Install(&options)
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{options.Interceptors[0].(interceptor.WorkerInterceptor)}})
	activity := func(_ context.Context, argument string) (string, error) { return argument, nil }
	env.RegisterActivity(activity)
	if _, err := env.ExecuteActivity(activity, "canary-argument"); err != nil {
		t.Fatal(err)
	}
	if err := told.Close(t.Context()); err != nil { // sends what was not sent yet
		t.Fatal(err)
	}
	kept.mu.Lock()
	defer kept.mu.Unlock()
	got := kept.text.String()
	if !strings.Contains(got, "RunActivity") || !strings.Contains(got, "castellan-test") {
		t.Errorf("got %s", got)
	}
	if strings.Contains(got, "canary-argument") {
		t.Error("an argument is in a trace")
	}
}
