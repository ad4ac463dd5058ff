// Package identity gives castellan's own processes their certificates: who may talk to the engine,
// to the API and to the ledger, proven by mutual TLS 1.3.
//
// An [Authority] is a small private CA in one directory. It knows nothing of the CA whose
// certificates castellan rotates for others and shares nothing with it. A [Source] holds the
// current certificate of one identity and hands out TLS configurations that always use the latest
// one, so a renewal needs no restart and drops no request. A Source lives in memory, in files that
// another process renews, or in both.
//
// Renewal is a local loop and never a workflow: a workflow cannot repair the connection it runs on.
// A start after every certificate has expired works wherever an Authority (or another [Renewer]) is
// at hand, and a process that only reads files recovers as soon as they are refreshed.
//
// The package must not be used for targets' certificates; those are rotated by the saga.
package identity
