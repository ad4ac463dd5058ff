// Command castellan-dev is castellan in one process for development and trial: embedded Temporal,
// embedded certificate authority, SQLite, every zone, on loopback.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "castellan-dev: "+err.Error())
		stop()
		os.Exit(1)
	}
}
