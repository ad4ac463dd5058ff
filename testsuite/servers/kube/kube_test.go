package kube_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"castellan.dev/testsuite/servers/kube"
)

func TestControlPlaneIsRealAndOutlivesItsServer(t *testing.T) {
	server := kube.Start(t, kube.WithControllers())
	client, namespace := server.Client(), server.Namespace(t)

	version, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if version.GitVersion != kube.Version || version.Minor != "36" {
		t.Errorf("the server calls itself %s (minor %q), want %s", version.GitVersion, version.Minor, kube.Version)
	}

	labels := map[string]string{"app": "orders"}
	_, err = client.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "orders"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "orders", Image: "orders"}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the controllers make the Deployment's pod", func() bool {
		pods, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=orders"})
		return err == nil && len(pods.Items) == 1
	})

	server.Kill()
	if _, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("the killed server answers")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AppsV1().Deployments(namespace).Get(t.Context(), "orders", metav1.GetOptions{}); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

func TestUsersMayDoNothingUntilRBACSaysSo(t *testing.T) {
	server := kube.Start(t)
	config, err := clientcmd.BuildConfigFromFlags("", server.KubeconfigFor(t, "eve"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("listing secrets as a stranger: got %v, want forbidden", err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("not so within a minute: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
