// Package kubernetes_test applies what this folder ships to a real API server and checks what it says.
package kubernetes_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver/kubernetes"
	"castellan.dev/activities/store"
	"castellan.dev/activities/verify/endpointslices"
	"castellan.dev/internal/kubeapi"
	"castellan.dev/testsuite/conformance"
	"castellan.dev/testsuite/servers/kube"
)

func TestZonesMayDoTheirWorkAndNothingElse(t *testing.T) {
	cluster := kube.Start(t)
	admin := cluster.Client()
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "orders"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apply(t, admin, "rbac.yaml")
	makeObjects(t, admin)
	privileged, observe := as(t, cluster, "castellan-privileged"), as(t, cluster, "castellan-observe")

	t.Run("the privileged zone delivers and restarts", func(t *testing.T) { delivers(t, privileged) })
	t.Run("the observe zone lists addresses", func(t *testing.T) {
		addresses, err := endpointslices.New(observe, endpointslices.Config{Namespace: "orders", Service: "orders"}).Addresses(t.Context())
		if err != nil || len(addresses) != 1 {
			t.Errorf("got %v, %v; want one address", addresses, err)
		}
	})

	everything := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	secrets, deployments, slices := "/secrets", "apps/deployments", "discovery.k8s.io/endpointslices"
	rights := map[string]map[string][]string{ // zone, "group/resource/name" to what it may do
		"privileged": {secrets + "/orders-tls": {"get", "update"}, deployments + "/orders": {"get", "patch"}},
		"observe":    {slices + "/": {"list"}, slices + "/orders": {"list"}}, // a right to all is one to each
	}
	things := []thing{
		{"", "secrets", "orders-tls"}, {"", "secrets", "other"}, {"", "secrets", ""},
		{"apps", "deployments", "orders"}, {"apps", "deployments", "other"}, {"apps", "deployments", ""},
		{"apps", "statefulsets", "orders"}, {"", "pods", "orders"}, {"", "pods", ""}, {"", "configmaps", ""},
		{"discovery.k8s.io", "endpointslices", ""}, {"discovery.k8s.io", "endpointslices", "orders"},
		{"rbac.authorization.k8s.io", "roles", "castellan-privileged"}, {"", "serviceaccounts", "default"},
	}
	for zone, c := range map[string]client.Interface{"privileged": privileged, "observe": observe} {
		for _, namespace := range []string{"orders", "castellan", "kube-system"} {
			for _, thing := range things {
				for _, verb := range everything {
					want := false
					for _, granted := range rights[zone][thing.String()] {
						want = want || granted == verb && namespace == "orders"
					}
					if got := may(t, c, namespace, thing, verb); got != want {
						t.Errorf("%s zone: may %s %s in %q: got %v, want %v", zone, verb, thing, namespace, got, want)
					}
				}
			}
		}
	}
}

type thing struct{ group, resource, name string }

func (t thing) String() string { return t.group + "/" + t.resource + "/" + t.name }

// may asks the authorizer itself, as the zone.
func may(t *testing.T, c client.Interface, namespace string, what thing, verb string) bool {
	t.Helper()
	review, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: verb, Group: what.group, Resource: what.resource, Name: what.name,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

func delivers(t *testing.T, c client.Interface) {
	delivery, err := kubernetes.NewSecret(c, unused{}, "orders", kubernetes.Config{Namespace: "orders", Secret: "orders-tls"})
	if err != nil {
		t.Fatal(err)
	}
	m := conformance.NewAuthority(t, "orders").Material(t, 1)
	if _, err := delivery.Publish(t.Context(), m, ""); err != nil {
		t.Fatal(err)
	}
	rollout, err := kubernetes.NewRollout(c, kubernetes.RolloutConfig{
		Namespace: "orders", Secret: "orders-tls", Workload: "deployment/orders", Window: time.Millisecond,
	}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := rollout.Reload(t.Context(), m.Fingerprint); err != nil {
		t.Fatal(err)
	}
	other, err := kubernetes.NewSecret(c, unused{}, "other", kubernetes.Config{Namespace: "orders", Secret: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Publish(t.Context(), m, ""); activities.KindOf(err) != activities.Denied {
		t.Errorf("publishing to a Secret that is not named: got %v, want denied", err)
	}
}

// unused is the store of deliveries that replace nothing.
type unused struct{ store.Store }

// as returns a client with a service account's token.
func as(t *testing.T, cluster *kube.Server, account string) client.Interface {
	t.Helper()
	token, err := cluster.Client().CoreV1().ServiceAccounts("castellan").CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: cluster.KubeconfigForToken(t, token.Status.Token)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// apply creates every object of a file.
func apply(t *testing.T, c client.Interface, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		switch o := object.(type) {
		case *corev1.Namespace:
			_, err = c.CoreV1().Namespaces().Create(t.Context(), o, metav1.CreateOptions{})
		case *corev1.ServiceAccount:
			_, err = c.CoreV1().ServiceAccounts(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.Role:
			_, err = c.RbacV1().Roles(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.RoleBinding:
			_, err = c.RbacV1().RoleBindings(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		default:
			t.Fatalf("%s holds a %T, which this test does not know how to apply", file, object)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
}

// makeObjects makes what a cluster has before castellan comes: an empty Secret, its workload and the
// Service's slice.
func makeObjects(t *testing.T, c client.Interface) {
	t.Helper()
	labels := map[string]string{"app": "orders"}
	_, secretErr := c.CoreV1().Secrets("orders").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "orders-tls"}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": {}, "tls.key": {}},
	}, metav1.CreateOptions{})
	_, workloadErr := c.AppsV1().Deployments("orders").Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "orders"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "orders", Image: "orders"}}},
			},
		},
	}, metav1.CreateOptions{})
	name, port := "https", int32(8443)
	_, sliceErr := c.DiscoveryV1().EndpointSlices("orders").Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "orders-1", Labels: map[string]string{discoveryv1.LabelServiceName: "orders"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.1.2.3"}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}, metav1.CreateOptions{})
	if err := errors.Join(secretErr, workloadErr, sliceErr); err != nil {
		t.Fatal(err)
	}
}
