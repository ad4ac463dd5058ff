package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"castellan.dev/internal/kubeapi"
	"castellan.dev/testsuite/servers/kube"
)

// cluster is the one control plane that this package's tests share; each test has its own namespace.
var cluster *kube.Server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if cluster, err = kube.Run(context.Background(), kube.WithControllers()); err != nil {
			fmt.Fprintln(os.Stderr, "start kubernetes:", err)
			return 1
		}
		defer cluster.Close()
		return m.Run()
	}())
}

func connect(t testing.TB, kubeconfig string) kubernetes.Interface {
	t.Helper()
	client, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("not so within a minute: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
