// Package activities holds the contracts between workflows and the workers that act: one typed
// handle per activity, its request and result, and the error kinds that may come back.
//
// A workflow imports this package and nothing below it, so workflow code compiles without any
// vendor's SDK. A handle fixes name, zone, timeouts, retry and heartbeat; callers cannot get them
// wrong. Requests name targets and never carry a path, an address with credentials, an owner or a
// policy: the worker that holds the credential resolves the name from its own configuration.
//
// Nothing in a request or result is secret. Key material stays in the store and travels as a
// reference (target and epoch). Fields are only ever added, and every zero value must work, because
// new workers meet old histories.
package activities
