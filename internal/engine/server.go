package engine

import (
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	sqliteschema "go.temporal.io/server/schema/sqlite"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	loopback    = "127.0.0.1"
	clusterName = "active"
)

// services are the five that run. The internal frontend exists because the public one requires
// castellan's identities, which the server's own workers do not have.
func services() []primitives.ServiceName {
	return []primitives.ServiceName{
		primitives.FrontendService, primitives.InternalFrontendService, primitives.HistoryService,
		primitives.MatchingService, primitives.WorkerService,
	}
}

// SearchAttributes are what castellan's workflows set and operators filter by. Their values are
// never encrypted, so they never carry a secret or a person's name.
func SearchAttributes() map[string]enumspb.IndexedValueType {
	return map[string]enumspb.IndexedValueType{
		"CastellanKind":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"CastellanTarget":   enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"CastellanPhase":    enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"CastellanSeverity": enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"CastellanTrigger":  enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"CastellanPolicy":   enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"CastellanOwner":    enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"CastellanAssets":   enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
		"CastellanDueAt":    enumspb.INDEXED_VALUE_TYPE_DATETIME,
	}
}

// database describes the SQLite file. The server keeps a pool per connection string for the life of
// the process; a harmless attribute makes the string of each start its own, so that an engine
// started again over a file that was replaced meanwhile does not meet the file that was.
func (c Config) database() *config.SQL {
	attributes := map[string]string{"mode": "rwc", "analysis_limit": strconv.FormatInt(int64(rand.Int32()), 10)}
	sql := &config.SQL{
		PluginName:        sqliteplugin.PluginName,
		DatabaseName:      filepath.Join(c.Dir, databaseFile),
		ConnectAttributes: attributes,
		MaxConnLifetime:   10 * time.Minute, // the pool of an engine that was stopped empties itself
	}
	if c.Untuned {
		return sql
	}
	attributes["journal_mode"] = "wal"
	attributes["synchronous"] = c.synchronous
	attributes["busy_timeout"] = "10000"
	sql.MaxConns, sql.MaxIdleConns = c.connections, c.connections
	return sql
}

// createNamespace makes castellan's namespace unless it is there.
func (c Config) createNamespace(sql *config.SQL) error {
	namespace, err := sqliteschema.NewNamespaceConfig(clusterName, c.Namespace, false, SearchAttributes())
	if err != nil {
		return fmt.Errorf("set up namespace %q: %w", c.Namespace, err)
	}
	namespace.Detail.Config.Retention = durationpb.New(c.Retention)
	if err := sqliteschema.CreateNamespaces(sql, namespace); err != nil {
		return fmt.Errorf("set up namespace %q: %w", c.Namespace, err)
	}
	return nil
}

// configure returns the server's configuration and where its services find each other. Static hosts
// replace the membership protocol, whose ports could not be put behind TLS: none is opened.
func (c Config) configure(sql *config.SQL, ports map[primitives.ServiceName]int) (*config.Config, map[primitives.ServiceName]static.Hosts) {
	hosts := map[primitives.ServiceName]static.Hosts{}
	listeners := map[string]config.Service{}
	for name, port := range ports {
		hosts[name] = static.SingleLocalHost(hostPort(port))
		listeners[string(name)] = config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: loopback}}
	}
	disabled := config.Archival{
		History:    config.HistoryArchival{State: config.ArchivalDisabled},
		Visibility: config.VisibilityArchival{State: config.ArchivalDisabled},
	}
	return &config.Config{
		Persistence: config.Persistence{
			DefaultStore:     sqliteplugin.PluginName,
			VisibilityStore:  sqliteplugin.PluginName,
			NumHistoryShards: c.shards,
			DataStores:       map[string]config.DataStore{sqliteplugin.PluginName: {SQL: sql}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: hostPort(ports[primitives.FrontendService])},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services:            listeners,
		Archival:            disabled,
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: config.ArchivalDisabled},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: config.ArchivalDisabled},
		}},
	}, hosts
}

func hostPort(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// choosePorts finds a free port for each service; the frontend's may be fixed. The server opens them
// itself, so between here and there another process could take one: then the start fails and says so.
func choosePorts(frontend int) (map[primitives.ServiceName]int, error) {
	ports := map[primitives.ServiceName]int{}
	var open []net.Listener
	defer func() {
		for _, listener := range open {
			listener.Close()
		}
	}()
	for _, name := range services() {
		wanted := 0
		if name == primitives.FrontendService {
			wanted = frontend
		}
		listener, err := net.Listen("tcp", hostPort(wanted))
		if err != nil {
			return nil, fmt.Errorf("find a port for the %s service: %w", name, err)
		}
		open = append(open, listener)
		ports[name] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
