package postgres_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"castellan.dev/testsuite/servers/postgres"

	"github.com/jackc/pgx/v5"
)

// certificate makes a self-signed one for 127.0.0.1.
func certificate(t *testing.T, serial int64) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// serves returns the serial number that the server presents to a new connection.
func serves(t *testing.T, server *postgres.Server) int64 {
	t.Helper()
	config, err := pgx.ParseConfig(strings.Replace(server.DSN(), "sslmode=disable", "sslmode=require", 1))
	if err != nil {
		t.Fatal(err)
	}
	var serial int64
	config.TLSConfig.VerifyConnection = func(state tls.ConnectionState) error {
		serial = state.PeerCertificates[0].SerialNumber.Int64()
		return nil
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
	return serial
}

func TestServerRecoversWhatWasCommittedBeforeItWasKilled(t *testing.T) {
	server := postgres.Start(t)
	dsn := server.Database(t)
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, `CREATE TABLE kept (n INT); INSERT INTO kept VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, `BEGIN; INSERT INTO kept VALUES (2)`); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if err := conn.Ping(ctx); err == nil {
		t.Fatal("the connection survived the server")
	}
	if _, err := pgx.Connect(ctx, dsn); err == nil {
		t.Fatal("a killed server accepts connections")
	}
	server.Restart()
	conn, err = pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var n, sum int
	if err := conn.QueryRow(ctx, `SELECT COUNT(*), SUM(n) FROM kept`).Scan(&n, &sum); err != nil || n != 1 || sum != 1 {
		t.Errorf("kept %d rows with sum %d (%v), want the committed one", n, sum, err)
	}
}

func TestServerRefusesAWrongPassword(t *testing.T) {
	server := postgres.Start(t)
	if conn, err := pgx.Connect(t.Context(), strings.Replace(server.DSN(), server.Password, "wrong", 1)); err == nil {
		conn.Close(t.Context())
		t.Error("a wrong password logs in")
	}
}

func TestServerServesAReplacedCertificateAfterAReload(t *testing.T) {
	cert, key := certificate(t, 1)
	server := postgres.StartWith(t, postgres.Options{Certificate: cert, Key: key})
	if got := serves(t, server); got != 1 {
		t.Fatalf("serves certificate %d, want 1", got)
	}
	server.SetCertificate(certificate(t, 2))
	for deadline := time.Now().Add(time.Minute); serves(t, server) != 2; {
		if time.Now().After(deadline) {
			t.Fatal("the server never served the replaced certificate")
		}
	}
}
