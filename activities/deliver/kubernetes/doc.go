// Package kubernetes delivers a certificate and its key as a Kubernetes TLS Secret, and restarts the
// workloads that read one only when they start.
//
// [Secret] writes tls.crt, tls.key and ca.crt in one update that names the resource version it was
// decided on, so that a reader never sees a certificate with another one's key and a foreign writer's
// change is never overwritten. Annotations record what castellan wrote and under which epoch: that is
// the fence. Everything else in the object, such as other keys, labels and owner references, stays as it
// is. Kubernetes keeps no history, so what was there before is kept in castellan's own encrypted store
// until it is retired.
//
// [Rollout] restarts a Deployment, StatefulSet or DaemonSet as `kubectl rollout restart` does, at most
// once per fingerprint and once per window however many certificates of the workload change in it.
//
// The package needs the rights that deploy/kubernetes/rbac.yaml grants to the privileged zone: get and
// update of the named Secrets, get and patch of the named workloads. It must not be used to judge
// whether a consumer uses a certificate; a projected volume lags behind the Secret by a minute or more.
package kubernetes
