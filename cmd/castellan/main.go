// Command castellan rotates certificates and secrets as durable Temporal workflows. It is the command
// line for people, the service (`castellan serve`) and the workers (`castellan worker --zone`).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	os.Exit(report(os.Stderr, err))
}
