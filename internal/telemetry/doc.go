// Package telemetry is what castellan tells about itself: metrics in the Prometheus format, and traces
// sent by OTLP. Both are off until the configuration names an address.
//
// Metrics hold names of targets, which are not sensitive by design, and never anything of a key. Traces
// hold names of workflows and activities, never their payloads; no baggage travels with them.
//
// Approvals are not among the metrics: there are none in castellan yet.
package telemetry
