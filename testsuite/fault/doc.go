// Package fault breaks the connection between a caller and a target from outside, so that tests can
// ask what a caller does when its target is away, or when its request arrived and the reply did not.
//
// Put a [Proxy] in front of any TCP target and give the caller the proxy's address. Nothing in the
// shipped code knows of it: there are no failpoints. The proxy forwards bytes and never decrypts
// them, so TLS, client certificates and host names (when both sides use the loopback address) stay
// as they are.
//
// The package must not be imported by anything but tests.
package fault
