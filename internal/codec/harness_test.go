package codec_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"castellan.dev/internal/codec"
	"castellan.dev/internal/keyring"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/server/temporaltest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// server is one Temporal server for all tests of the package.
var server = sync.OnceValue(func() *temporaltest.TestServer { return temporaltest.NewServer() })

func TestMain(m *testing.M) { os.Exit(m.Run()) }

// newRing creates a keyring file and loads it.
func newRing(t *testing.T) (*keyring.Keyring, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyring")
	if err := keyring.Create(path); err != nil {
		t.Fatal(err)
	}
	return loadRing(t, path), path
}

func loadRing(t *testing.T, path string) *keyring.Keyring {
	t.Helper()
	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func newCodec(t *testing.T, ring *keyring.Keyring, namespace string) *codec.Codec {
	t.Helper()
	c, err := codec.New(ring, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// capture keeps what crosses the wire and what is logged.
type capture struct {
	mu   sync.Mutex
	wire []byte
	logs []byte
}

// unary records every message in both directions, as bytes and as JSON.
func (c *capture) unary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	c.message(method, request)
	err := invoke(ctx, method, request, reply, conn, options...)
	c.message(method, reply)
	if err != nil {
		c.mu.Lock()
		c.wire = fmt.Appendf(c.wire, "%s: %v\n", method, err)
		c.mu.Unlock()
	}
	return err
}

func (c *capture) message(method string, m any) {
	message, ok := m.(proto.Message)
	if !ok {
		return
	}
	raw, _ := proto.Marshal(message)
	text, _ := protojson.Marshal(message)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wire = append(append(append(append(c.wire, method...), ' '), raw...), text...)
}

// contents returns what was captured so far.
func (c *capture) contents() (wire, logs []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte{}, c.wire...), append([]byte{}, c.logs...)
}

func (c *capture) log(level, message string, fields []any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logs = fmt.Appendf(c.logs, "%s %s %+v\n", level, message, fields)
}

// Debug, Info, Warn and Error make a capture the SDK's logger.
func (c *capture) Debug(message string, fields ...any) { c.log("DEBUG", message, fields) }
func (c *capture) Info(message string, fields ...any)  { c.log("INFO", message, fields) }
func (c *capture) Warn(message string, fields ...any)  { c.log("WARN", message, fields) }
func (c *capture) Error(message string, fields ...any) { c.log("ERROR", message, fields) }

// dial returns a client of the shared server, captured, with the codec unless it is nil.
func dial(t *testing.T, c *codec.Codec) (client.Client, *capture) {
	t.Helper()
	seen := &capture{}
	options := client.Options{
		HostPort:  server().GetFrontendHostPort(),
		Namespace: server().GetDefaultNamespace(),
		Logger:    seen,
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(seen.unary),
		}},
	}
	if c != nil {
		codec.Install(&options, c)
	}
	connected, err := client.Dial(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connected.Close)
	return connected, seen
}

// work runs a worker on a queue until the test ends, or stop is called.
func work(t *testing.T, c client.Client, queue string, register func(worker.Registry)) (stop func()) {
	t.Helper()
	w := worker.New(c, queue, worker.Options{DisableRegistrationAliasing: true, StickyScheduleToStartTimeout: 200 * time.Millisecond})
	register(w)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(w.Stop)
	t.Cleanup(stop)
	return stop
}
