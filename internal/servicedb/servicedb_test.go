package servicedb_test

import (
	"os"
	"path/filepath"
	"testing"

	"castellan.dev/internal/servicedb"
	"castellan.dev/testsuite/conformance"
	"castellan.dev/testsuite/servers/postgres"
)

func TestMain(m *testing.M) {
	conformance.ServiceDBChild()
	os.Exit(m.Run())
}

func TestConformanceSQLite(t *testing.T) {
	conformance.RunServiceDB(t, func(t *testing.T) servicedb.Config {
		return servicedb.Config{Path: filepath.Join(t.TempDir(), "service.db")}
	})
}

func TestConformancePostgres(t *testing.T) {
	server := postgres.Start(t)
	conformance.RunServiceDB(t, func(t *testing.T) servicedb.Config {
		return servicedb.Config{Kind: servicedb.KindPostgres, DSNFile: postgres.DSNFile(t, server.Database(t))}
	})
}
