package webui

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/temporalio/ui-server/v2/server/api"
	"github.com/temporalio/ui-server/v2/server/config"
	"github.com/temporalio/ui-server/v2/server/route"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Prefix is the path below which the handler is mounted, unless the configuration says otherwise.
const Prefix = "/temporal"

// Config says which engine is shown, and where.
type Config struct {
	Address   string      // of the engine's frontend
	Namespace string      // shown first
	TLS       *tls.Config // made by the source of the identity "ui"
	Prefix    string      // without a trailing slash; empty means Prefix
	Codec     string      // of the decode-only codec on the same origin; empty means "/codec"
}

// Handler is the Web UI. Close ends its connection to the engine.
type Handler struct {
	handler    http.Handler
	connection *grpc.ClientConn
}

// New connects lazily: the engine may start later.
func New(c Config) (*Handler, error) {
	if c.Prefix == "" {
		c.Prefix = Prefix
	}
	if c.Codec == "" {
		c.Codec = "/codec"
	}
	if c.TLS == nil {
		return nil, fmt.Errorf("make web UI: a TLS configuration is required")
	}
	connection, err := grpc.NewClient(c.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.TLS)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)), // histories are long
	)
	if err != nil {
		return nil, fmt.Errorf("make web UI: %w", err)
	}
	routes, err := routes(c, connection)
	if err != nil {
		connection.Close()
		return nil, fmt.Errorf("make web UI: %w", err)
	}
	guarded := http.NewCrossOriginProtection().Handler(readOnly(routes))
	return &Handler{handler: http.StripPrefix(c.Prefix, rooted(guarded)), connection: connection}, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.handler.ServeHTTP(w, r) }

// Close ends the connection to the engine.
func (h *Handler) Close() error { return h.connection.Close() }

func routes(c Config, connection *grpc.ClientConn) (*echo.Echo, error) {
	settings, err := config.NewConfigProviderWithRefresh(&config.Config{
		TemporalGRPCAddress: c.Address,
		PublicPath:          c.Prefix,
		EnableUI:            true,
		DefaultNamespace:    c.Namespace,
		DisableNewsFetch:    true, // no request leaves the machine
		Codec:               config.Codec{Endpoint: c.Codec, IncludeCredentials: true},
		HideLogs:            true,

		DisableWriteActions:       true,
		WorkflowTerminateDisabled: true,
		WorkflowCancelDisabled:    true,
		WorkflowSignalDisabled:    true,
		WorkflowUpdateDisabled:    true,
		WorkflowResetDisabled:     true,
		WorkflowPauseDisabled:     true,
		BatchActionsDisabled:      true,
		StartWorkflowDisabled:     true,
		ActivityCommandsDisabled:  true,
	})
	if err != nil {
		return nil, err
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.Use(middleware.Recover(), middleware.Gzip())

	group := e.Group("/api/v1")
	group.GET("/settings", api.GetSettings(settings))
	group.GET(api.WorkflowRawHistoryUrl, api.WorkflowRawHistoryHandler(workflowservice.NewWorkflowServiceClient(connection)))
	group.Match([]string{http.MethodGet, http.MethodPost}, "/*", api.TemporalAPIHandler(settings, nil, connection))
	route.SetRenderRoute(e, "")
	return e, setAssets(e, c.Prefix)
}

// query is the one call that reads by POST: the UI asks a workflow for its state and details.
var query = regexp.MustCompile(`^/api/v1/namespaces/[^/]+/workflows/[^/]+/query/[^/]+$`)

// readOnly lets nothing through that could change a workflow, and keeps the caller's session with
// castellan: the gateway would forward cookies and tokens to the engine as call metadata.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reading := r.Method == http.MethodGet || r.Method == http.MethodHead ||
			r.Method == http.MethodPost && query.MatchString(r.URL.EscapedPath())
		if !reading {
			http.Error(w, "the Web UI is read-only here: use the castellan or temporal command line", http.StatusMethodNotAllowed)
			return
		}
		r = r.Clone(r.Context())
		for name := range r.Header {
			if strings.EqualFold(name, "Cookie") || strings.HasPrefix(strings.ToLower(name), "authorization") ||
				strings.HasPrefix(strings.ToLower(name), "grpc-metadata-") {
				delete(r.Header, name)
			}
		}
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "same-origin")
		if strings.HasPrefix(r.URL.Path, "/api/") {
			w.Header().Set("Cache-Control", "no-store")
		}
		next.ServeHTTP(w, r)
	})
}

// rooted makes the bare prefix the UI's root.
func rooted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "" {
			r = r.Clone(r.Context())
			r.URL.Path = "/"
		}
		next.ServeHTTP(w, r)
	})
}
