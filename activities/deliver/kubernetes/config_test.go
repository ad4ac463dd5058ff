package kubernetes_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver/kubernetes"
	"castellan.dev/internal/kubeapi"
)

func TestConfigReportsEveryProblem(t *testing.T) {
	type checker interface {
		Check(report func(field, value, want string))
	}
	for name, c := range map[string]struct {
		config checker
		want   string // fields
	}{
		"a delivery":            {kubernetes.Config{Namespace: "shop", Secret: "orders.tls"}, ""},
		"a delivery of nothing": {kubernetes.Config{}, "namespace secret"},
		"a delivery of much that is wrong": {
			kubernetes.Config{Config: kubeapi.Config{Kubeconfig: "relative"}, Namespace: "Shop", Secret: "a/b"},
			"kubeconfig namespace secret",
		},
		"a context without a file": {kubernetes.Config{Config: kubeapi.Config{Context: "c"}, Namespace: "shop", Secret: "s"}, "context"},
		"a rollout":                {kubernetes.RolloutConfig{Namespace: "shop", Secret: "s", Workload: "deployment/orders", Window: 30 * time.Second}, ""},
		"a rollout of nothing":     {kubernetes.RolloutConfig{}, "namespace secret workload"},
		"a rollout of what has no pods, after too long a window": {
			kubernetes.RolloutConfig{Namespace: "shop", Secret: "s", Workload: "service/orders", Window: time.Minute}, "workload window",
		},
		"a rollout without a name": {kubernetes.RolloutConfig{Namespace: "shop", Secret: "s", Workload: "deployment/"}, "workload"},
	} {
		t.Run(name, func(t *testing.T) {
			var fields []string
			c.config.Check(func(field, _, want string) {
				fields = append(fields, field)
				if want == "" {
					t.Errorf("field %s: the report does not say what is wanted", field)
				}
			})
			if diff := cmp.Diff(c.want, strings.Join(fields, " ")); diff != "" {
				t.Errorf("reported fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConstructorsRefuseWhatCheckReports(t *testing.T) {
	if _, err := kubernetes.NewSecret(nil, nil, "orders", kubernetes.Config{}); activities.KindOf(err) != activities.Invalid {
		t.Errorf("a delivery: got %v, want invalid", err)
	}
	if _, err := kubernetes.NewRollout(nil, kubernetes.RolloutConfig{}, time.Now); activities.KindOf(err) != activities.Invalid {
		t.Errorf("a rollout: got %v, want invalid", err)
	}
}
