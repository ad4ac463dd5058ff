// Package reload makes running programs notice what was delivered: by doing nothing (none), by a signal
// to the process of a pid file (signal), by systemd (systemd), or by an HTTP request (http). Each is a
// deliver.Reloader in a file of its own. Whether the program really uses the candidate afterwards is not
// decided here: a verifier looks.
//
// Reloading twice must be harmless. A signal that makes a program read its files again is harmless by
// nature, and signals that end a program are refused. A systemd restart is remembered together with the
// unit's invocation id, so that a lost reply does not cause a second one. An HTTP hook gets the
// fingerprint as its idempotency key and must act once per key.
package reload
