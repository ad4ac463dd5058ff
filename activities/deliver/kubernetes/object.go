package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"castellan.dev/activities"
	"castellan.dev/internal/kubeapi"
)

// manager is the field manager and label by which castellan's writes are known.
const manager = "castellan"

// object is one named object of the API. Its requests are sent once: client-go would repeat a
// throttled request by itself, out of sight of the activity's retry policy.
type object struct {
	api                       rest.Interface
	resource, namespace, name string
}

func (o object) String() string {
	return fmt.Sprintf("%s %q", strings.TrimSuffix(o.resource, "s"), o.namespace+"/"+o.name)
}

func (o object) get(ctx context.Context, into runtime.Object) error {
	err := o.api.Get().Namespace(o.namespace).Resource(o.resource).Name(o.name).MaxRetries(0).Do(ctx).Into(into)
	return kubeapi.ReadError(err, "read %s", o)
}

func (o object) create(ctx context.Context, from, into runtime.Object) error {
	err := o.api.Post().Namespace(o.namespace).Resource(o.resource).
		VersionedParams(&metav1.CreateOptions{FieldManager: manager}, scheme.ParameterCodec).
		Body(from).MaxRetries(0).Do(ctx).Into(into)
	return kubeapi.WriteError(err, "create %s", o)
}

func (o object) update(ctx context.Context, from, into runtime.Object) error {
	err := o.api.Put().Namespace(o.namespace).Resource(o.resource).Name(o.name).
		VersionedParams(&metav1.UpdateOptions{FieldManager: manager}, scheme.ParameterCodec).
		Body(from).MaxRetries(0).Do(ctx).Into(into)
	return kubeapi.WriteError(err, "update %s", o)
}

func (o object) patch(ctx context.Context, merge []byte) error {
	err := o.api.Patch(types.MergePatchType).Namespace(o.namespace).Resource(o.resource).Name(o.name).
		VersionedParams(&metav1.PatchOptions{FieldManager: manager}, scheme.ParameterCodec).
		Body(merge).MaxRetries(0).Do(ctx).Error()
	return kubeapi.WriteError(err, "patch %s", o)
}

// settled is the error of a write that was looked for and not found. A server that answered has
// finished with the request, unless it says that it gave up waiting; without an answer the request may
// still be on its way.
func settled(err error) error {
	var status apierrors.APIStatus
	if activities.KindOf(err) != activities.Uncertain || !errors.As(err, &status) {
		return err
	}
	if code := status.Status().Code; code == http.StatusGatewayTimeout || code == http.StatusRequestTimeout {
		return err
	}
	return activities.Errorf(activities.Transient, "%w", err)
}

func invalid(found []string) error {
	return activities.Errorf(activities.Invalid, "configure kubernetes delivery: %s", strings.Join(found, "; "))
}

func quote(value string) string { return strconv.Quote(value) }
