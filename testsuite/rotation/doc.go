// Package rotation tests the rotation of certificates end to end, on a whole castellan-dev: embedded
// Temporal, embedded CA, encrypted store, ledger, file deliveries, and real TLS servers. It holds tests
// only. What breaks a rotation on purpose is tested in testsuite/faults instead.
package rotation
