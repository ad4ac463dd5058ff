package endpointslices_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"castellan.dev/activities"
	"castellan.dev/activities/verify/endpointslices"
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

func lister(t *testing.T, namespace, port string) *endpointslices.Lister {
	t.Helper()
	client, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: cluster.Kubeconfig()})
	if err != nil {
		t.Fatal(err)
	}
	return endpointslices.New(client, endpointslices.Config{Namespace: namespace, Service: "orders", Port: port})
}

func ptr[T any](value T) *T { return &value }

// slice is a slice of the Service "orders" with one port named https.
func slice(name string, port int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "orders"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   endpoints,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("https"), Port: ptr(port)}},
	}
}

func endpoint(address string, ready, serving *bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ready, Serving: serving}}
}

func TestAddressesAreWhereNewConnectionsGo(t *testing.T) {
	yes, no := ptr(true), ptr(false)
	withMetrics := slice("a", 8443, endpoint("10.0.0.1", nil, nil))
	withMetrics.Ports = append(withMetrics.Ports, discoveryv1.EndpointPort{Name: ptr("metrics"), Port: ptr[int32](9090)})
	v6 := slice("b", 8443, endpoint("fd00::1", nil, nil))
	v6.AddressType = discoveryv1.AddressTypeIPv6
	allPorts := slice("a", 0, endpoint("10.0.0.1", nil, nil))
	allPorts.Ports = nil
	others := slice("other", 8443, endpoint("10.9.9.9", nil, nil))
	others.Labels[discoveryv1.LabelServiceName] = "payments"
	for name, c := range map[string]struct {
		slices []*discoveryv1.EndpointSlice
		port   string
		want   []string
		kind   activities.Kind
	}{
		"conditions that are not set count as true":     {slices: []*discoveryv1.EndpointSlice{slice("a", 8443, endpoint("10.0.0.2", nil, nil), endpoint("10.0.0.1", yes, yes))}, want: []string{"10.0.0.1:8443", "10.0.0.2:8443"}},
		"pods that are not ready, or end, are left out": {slices: []*discoveryv1.EndpointSlice{slice("a", 8443, endpoint("10.0.0.1", yes, yes), endpoint("10.0.0.2", no, yes), endpoint("10.0.0.3", no, no), endpoint("10.0.0.4", yes, no))}, want: []string{"10.0.0.1:8443"}},
		"an address in two slices counts once":          {slices: []*discoveryv1.EndpointSlice{slice("a", 8443, endpoint("10.0.0.1", no, no)), slice("b", 8443, endpoint("10.0.0.1", yes, yes))}, want: []string{"10.0.0.1:8443"}},
		"a named port may have several numbers":         {slices: []*discoveryv1.EndpointSlice{slice("a", 8443, endpoint("10.0.0.1", nil, nil)), slice("b", 9443, endpoint("10.0.0.2", nil, nil))}, port: "https", want: []string{"10.0.0.1:8443", "10.0.0.2:9443"}},
		"a port is chosen by its name":                  {slices: []*discoveryv1.EndpointSlice{withMetrics}, port: "metrics", want: []string{"10.0.0.1:9090"}},
		"a port is chosen by its number":                {slices: []*discoveryv1.EndpointSlice{withMetrics}, port: "8443", want: []string{"10.0.0.1:8443"}},
		"several ports and no choice is an error":       {slices: []*discoveryv1.EndpointSlice{withMetrics}, kind: activities.Invalid},
		"a port that no pod has leaves no address":      {slices: []*discoveryv1.EndpointSlice{withMetrics}, port: "1", want: nil},
		"both address families are listed":              {slices: []*discoveryv1.EndpointSlice{slice("a", 8443, endpoint("10.0.0.1", nil, nil)), v6}, want: []string{"10.0.0.1:8443", "[fd00::1]:8443"}},
		"a slice without ports means every port":        {slices: []*discoveryv1.EndpointSlice{allPorts}, port: "8443", want: []string{"10.0.0.1:8443"}},
		"a Service without any slice is not found":      {slices: []*discoveryv1.EndpointSlice{others}, kind: activities.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := cluster.Namespace(t)
			for _, s := range c.slices {
				if _, err := cluster.Client().DiscoveryV1().EndpointSlices(namespace).Create(t.Context(), s.DeepCopy(), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			got, err := lister(t, namespace, c.port).Addresses(t.Context())
			if c.kind != "" {
				if err == nil || activities.KindOf(err) != c.kind {
					t.Errorf("got %v, %v; want kind %q", got, err, c.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryPageIsRead(t *testing.T) {
	namespace := cluster.Namespace(t)
	client := cluster.Client()
	const count = 300 // more than one page holds
	for i := range count {
		s := slice(fmt.Sprintf("orders-%d", i), 8443, endpoint(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), nil, nil))
		if _, err := client.DiscoveryV1().EndpointSlices(namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := lister(t, namespace, "").Addresses(t.Context())
	if err != nil || len(got) != count {
		t.Errorf("got %d addresses, %v; want %d", len(got), err, count)
	}
}

// The controller's own slices, made from pods whose status the test writes as a kubelet would.
func TestControllersSlicesAreUnderstood(t *testing.T) {
	namespace := cluster.Namespace(t)
	client := cluster.Client()
	labels := map[string]string{"app": "orders"}
	if _, err := client.CoreV1().Services(namespace).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "orders"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(8443)}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	orders := lister(t, namespace, "https")
	eventually(t, "a Service without pods has no address, and that is no error", func() bool {
		addresses, err := orders.Addresses(t.Context())
		return err == nil && len(addresses) == 0
	})

	// The controller leaves out pods whose node it does not know.
	node, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods := client.CoreV1().Pods(namespace)
	for i, ready := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionTrue, corev1.ConditionFalse} {
		pod, err := pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("orders-%d", i), Labels: labels},
			Spec:       corev1.PodSpec{NodeName: node.Name, Containers: []corev1.Container{{Name: "orders", Image: "orders"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pod.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.0.0.%d", i+1), PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.0.%d", i+1)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
		}
		if _, err := pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	want := "10.0.0.1:8443 10.0.0.2:8443"
	eventually(t, "the addresses are "+want, func() bool {
		addresses, err := orders.Addresses(t.Context())
		return err == nil && strings.Join(addresses, " ") == want
	})

	older, err := orders.PodsOlderThan(t.Context(), time.Now().Add(time.Hour))
	if diff := cmp.Diff([]string{"orders-0", "orders-1", "orders-2"}, older); err != nil || diff != "" {
		t.Errorf("pods older than the future: %v (-want +got):\n%s", err, diff)
	}
	older, err = orders.PodsOlderThan(t.Context(), time.Now().Add(-time.Hour))
	if err != nil || len(older) > 0 {
		t.Errorf("pods older than the past: got %v, %v; want none", older, err)
	}
}

func TestListingNeedsTheRightTo(t *testing.T) {
	client, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: cluster.KubeconfigFor(t, "eve")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = endpointslices.New(client, endpointslices.Config{Namespace: "default", Service: "orders"}).Addresses(t.Context())
	if activities.KindOf(err) != activities.Denied {
		t.Errorf("got %v, want denied", err)
	}
}

func TestConfigReportsEveryProblem(t *testing.T) {
	var got []string
	endpointslices.Config{Config: kubeapi.Config{Kubeconfig: "relative"}, Service: "Orders", Port: "70000"}.
		Check(func(field, _, _ string) { got = append(got, field) })
	if diff := cmp.Diff([]string{"kubeconfig", "namespace", "service", "port"}, got); diff != "" {
		t.Errorf("reported fields (-want +got):\n%s", diff)
	}
	endpointslices.Config{Namespace: "shop", Service: "orders", Port: "https"}.
		Check(func(field, value, want string) { t.Errorf("a good configuration: %s %q, want %s", field, value, want) })
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
