// Kubernetes is etcd, kube-apiserver and kube-controller-manager in one program, for tests: the first
// argument selects which, the rest are that server's own flags. One program instead of three, because
// linking them is what takes time and room.
//
// It is started by the package testsuite/servers/kube and is never part of a release.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: kubernetes {etcd|kube-apiserver|kube-controller-manager} [flags]")
		os.Exit(2)
	}
	if os.Getenv("EXIT_WITH_STDIN") != "" {
		go exitWithStdin()
	}
	server := os.Args[1]
	os.Args = append([]string{server}, os.Args[2:]...)
	switch server {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		run(apiserver.NewAPIServerCommand())
	case "kube-controller-manager":
		run(controllermanager.NewControllerManagerCommand())
	default:
		fmt.Fprintf(os.Stderr, "no server %q in this program\n", server)
		os.Exit(2)
	}
}

// run executes a server's command with its own logging and flag set-up, as its own main would.
func run(command *cobra.Command) { os.Exit(cli.Run(command)) }

// exitWithStdin ends the server when the other end of its standard input is gone, so that a test
// that was killed or timed out leaves nothing running.
func exitWithStdin() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(3)
}
