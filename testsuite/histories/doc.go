// Package histories keeps the recorded histories of every workflow type and notable path, by release, and
// replays them with the workflows as they are registered in production: a change that breaks running
// work fails here first. It holds tests only.
//
// A committed history never changes: testdata/histories.sums holds the digest of each. A new one is
// recorded with
//
//	go test ./testsuite/histories -run 'TestRecord$' -record v0.2
//
// which only adds files. Payloads are recorded in clear, from scripted steps: nothing in them is secret.
package histories
