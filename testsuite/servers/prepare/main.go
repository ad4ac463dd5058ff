// Prepare builds the real servers that the tests run against, so that no test pays for it and CI can
// save the cache directory ($CASTELLAN_CACHE) between runs:
//
//	go run ./testsuite/servers/prepare
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"castellan.dev/testsuite/servers/kube"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	servers := []func(context.Context) (string, error){kube.Binary}
	for _, binary := range servers {
		path, err := binary(ctx)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(path)
	}
}
