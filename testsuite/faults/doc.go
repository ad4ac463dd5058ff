// Package faults tries to break rotations: every step is met by every fault, and afterwards the
// invariants I1 to I6 must hold (availability, nothing lost, monotone, no orphan, secrecy, order).
//
// castellan-dev and the privileged workers run as processes of their own, so that they can be killed,
// stopped and restarted from outside. Each case has a target, a host, a worker process and a TLS server
// of its own, and an availability probe that opens a fresh connection every 30 ms. Nothing in shipped
// code knows of the faults: a worker process of this package wraps the kind that it serves, to say when
// it is before or after an effect; proxies cut the connections to the issuer.
package faults
