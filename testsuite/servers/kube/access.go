package kube

import (
	"crypto/x509/pkix"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Config is a client configuration with every right in the cluster.
func (s *Server) Config() *rest.Config {
	return &rest.Config{
		Host:            "https://" + s.Address(),
		TLSClientConfig: rest.TLSClientConfig{CAFile: s.certs.caFile, CertFile: s.certs.adminFile, KeyFile: s.certs.adminKeyFile},
		QPS:             -1, // tests are not to be slowed down by their own client
		WarningHandler:  rest.NoWarnings{},
	}
}

// Client is a client with every right in the cluster.
func (s *Server) Client() kubernetes.Interface { return kubernetes.NewForConfigOrDie(s.Config()) }

// Kubeconfig is the path of a kubeconfig file with every right in the cluster.
func (s *Server) Kubeconfig() string { return filepath.Join(s.dir, "admin.kubeconfig") }

// KubeconfigVia is Kubeconfig for a cluster that is reached at another address, such as a proxy's.
func (s *Server) KubeconfigVia(tb testing.TB, address string) string {
	tb.Helper()
	return s.kubeconfigFile(tb, address, s.admin())
}

// KubeconfigFor is the path of a kubeconfig file for a user, authenticated by a client certificate,
// who may do what RBAC grants to that name and nothing else.
func (s *Server) KubeconfigFor(tb testing.TB, user string, groups ...string) string {
	tb.Helper()
	certFile, keyFile, err := s.certs.sign(filepath.Join(tb.TempDir(), "user"), pkix.Name{CommonName: user, Organization: groups})
	if err != nil {
		tb.Fatal(err)
	}
	return s.kubeconfigFile(tb, s.Address(), &clientcmdapi.AuthInfo{ClientCertificate: certFile, ClientKey: keyFile})
}

// KubeconfigForToken is the path of a kubeconfig file for the holder of a bearer token, such as a
// service account's.
func (s *Server) KubeconfigForToken(tb testing.TB, token string) string {
	tb.Helper()
	return s.kubeconfigFile(tb, s.Address(), &clientcmdapi.AuthInfo{Token: token})
}

// Namespace makes a namespace of the test's own.
func (s *Server) Namespace(tb testing.TB) string {
	tb.Helper()
	namespace, err := s.Client().CoreV1().Namespaces().Create(tb.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatalf("make a namespace: %v", err)
	}
	return namespace.Name
}

func (s *Server) admin() *clientcmdapi.AuthInfo {
	return &clientcmdapi.AuthInfo{ClientCertificate: s.certs.adminFile, ClientKey: s.certs.adminKeyFile}
}

func (s *Server) kubeconfigFile(tb testing.TB, address string, user *clientcmdapi.AuthInfo) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "kubeconfig")
	if err := s.writeKubeconfig(path, address, user); err != nil {
		tb.Fatal(err)
	}
	return path
}

func (s *Server) writeKubeconfig(path, address string, user *clientcmdapi.AuthInfo) error {
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: "https://" + address, CertificateAuthority: s.certs.caFile}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"test": user},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "test"}},
		CurrentContext: "test",
	}, path)
}
