// Package endpointslices lists the addresses behind a Kubernetes Service, for verifiers that must see
// what every single pod uses. The Service's own address is of no use to them: behind it each connection
// meets another pod.
//
// It reads EndpointSlices and, for [Lister.PodsOlderThan], pods, with the observe zone's credential. It
// must not be given rights to write, nor to read Secrets.
package endpointslices

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"castellan.dev/activities"
	"castellan.dev/internal/kubeapi"
)

// Config declares the Service whose addresses are listed.
type Config struct {
	kubeapi.Config `yaml:",inline"`

	Namespace string `yaml:"namespace"` // required
	Service   string `yaml:"service"`   // required
	Port      string `yaml:"port"`      // the pods' port, by its name in the Service or its number; default: the only one there is
}

// Check reports every problem of the configuration.
func (c Config) Check(report func(field, value, want string)) {
	c.Config.Check(report)
	if len(validation.IsDNS1123Label(c.Namespace)) > 0 {
		report("namespace", c.Namespace, "a namespace's name")
	}
	if len(validation.IsDNS1123Label(c.Service)) > 0 {
		report("service", c.Service, "a Service's name")
	}
	if number, err := strconv.Atoi(c.Port); err == nil {
		if number < 1 || number > 65535 {
			report("port", c.Port, "a number from 1 to 65535, or a name")
		}
	} else if c.Port != "" && len(validation.IsValidPortName(c.Port)) > 0 {
		report("port", c.Port, "the name or number of a port of the pods")
	}
}

// Lister lists the addresses of one Service.
type Lister struct {
	config    Config
	discovery rest.Interface
	core      rest.Interface
}

// New returns a lister. The configuration must have passed its Check.
func New(client kubernetes.Interface, config Config) *Lister {
	return &Lister{config: config, discovery: client.DiscoveryV1().RESTClient(), core: client.CoreV1().RESTClient()}
}

// Endpoint is one address behind the Service.
type Endpoint struct {
	Address string // host:port
	Pod     string // name, empty if no pod stands behind it
	Ready   bool   // ready and serving: new connections are sent there
}

// Addresses returns host:port of every endpoint that is ready and serving, sorted. A Service without
// any has none, and that is not an error.
func (l *Lister) Addresses(ctx context.Context) ([]string, error) {
	endpoints, err := l.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, endpoint := range endpoints {
		if endpoint.Ready {
			addresses = append(addresses, endpoint.Address)
		}
	}
	return addresses, nil
}

// Endpoints returns every endpoint, ready or not, sorted by address and each once: while slices are
// rewritten an endpoint may stand in two of them.
func (l *Lister) Endpoints(ctx context.Context) ([]Endpoint, error) {
	found := map[string]Endpoint{}
	slicesSeen, options := 0, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + l.config.Service,
		Limit:         pageSize,
	}
	for {
		page := new(discoveryv1.EndpointSliceList)
		err := l.discovery.Get().Namespace(l.config.Namespace).Resource("endpointslices").
			VersionedParams(&options, scheme.ParameterCodec).MaxRetries(0).Do(ctx).Into(page)
		if err := kubeapi.ReadError(err, "list endpoint slices of service %q", l.config.Namespace+"/"+l.config.Service); err != nil {
			return nil, err
		}
		slicesSeen += len(page.Items)
		for _, slice := range page.Items {
			if err := l.collect(slice, found); err != nil {
				return nil, err
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			break
		}
	}
	if slicesSeen == 0 {
		// The controller keeps a slice for a Service without pods, so this one does not exist or is not
		// ours to see through slices; taking it for "no consumers" would retire a credential in use.
		return nil, activities.Errorf(activities.NotFound, "list endpoint slices of service %q: it has none", l.config.Namespace+"/"+l.config.Service)
	}
	endpoints := make([]Endpoint, 0, len(found))
	for _, endpoint := range found {
		endpoints = append(endpoints, endpoint)
	}
	slices.SortFunc(endpoints, func(a, b Endpoint) int { return strings.Compare(a.Address, b.Address) })
	return endpoints, nil
}

const pageSize = 250

// collect adds a slice's endpoints. An address that one slice calls ready counts as ready.
func (l *Lister) collect(slice discoveryv1.EndpointSlice, found map[string]Endpoint) error {
	if len(slice.Endpoints) == 0 {
		return nil // an empty slice need not name ports
	}
	port, err := l.port(slice)
	if err != nil || port == 0 {
		return err
	}
	for _, e := range slice.Endpoints {
		endpoint := Endpoint{Ready: isTrue(e.Conditions.Ready) && isTrue(e.Conditions.Serving)}
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
			endpoint.Pod = e.TargetRef.Name
		}
		for _, host := range e.Addresses {
			endpoint.Address = net.JoinHostPort(host, strconv.Itoa(int(port)))
			if !found[endpoint.Address].Ready {
				found[endpoint.Address] = endpoint
			}
		}
	}
	return nil
}

// port returns the slice's port that the configuration means, 0 if this slice does not carry it: pods
// that give a named port different numbers stand in different slices.
func (l *Lister) port(slice discoveryv1.EndpointSlice) (int32, error) {
	number, err := strconv.Atoi(l.config.Port)
	byNumber := err == nil
	if byNumber && len(slice.Ports) == 0 {
		return int32(number), nil // no ports means all ports
	}
	if l.config.Port == "" && len(slice.Ports) != 1 {
		return 0, activities.Errorf(activities.Invalid, "choose port of service %q: it has %d; the configuration must name one", l.config.Service, len(slice.Ports))
	}
	for _, port := range slice.Ports {
		named := port.Name != nil && *port.Name == l.config.Port && !byNumber
		numbered := byNumber && port.Port != nil && int(*port.Port) == number
		if port.Port != nil && (named || numbered || l.config.Port == "") {
			return *port.Port, nil
		}
	}
	return 0, nil
}

// PodsOlderThan returns the names of the pods behind the Service that were made before the moment,
// such as that of a Secret's last write: they have the certificate only if they reload it by
// themselves. Volumes mounted with subPath and environment variables never change in a running pod.
func (l *Lister) PodsOlderThan(ctx context.Context, moment time.Time) ([]string, error) {
	endpoints, err := l.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	var older []string
	for _, endpoint := range endpoints {
		if endpoint.Pod == "" || slices.Contains(older, endpoint.Pod) {
			continue
		}
		pod := new(corev1.Pod)
		err := l.core.Get().Namespace(l.config.Namespace).Resource("pods").Name(endpoint.Pod).MaxRetries(0).Do(ctx).Into(pod)
		err = kubeapi.ReadError(err, "read pod %q", l.config.Namespace+"/"+endpoint.Pod)
		if activities.KindOf(err) == activities.NotFound && err != nil {
			continue // it has gone since the slice was written
		}
		if err != nil {
			return nil, err
		}
		if pod.CreationTimestamp.Time.Before(moment) {
			older = append(older, endpoint.Pod)
		}
	}
	slices.Sort(older)
	return older, nil
}

// isTrue reads a condition: the API says that an unknown one counts as true.
func isTrue(condition *bool) bool { return condition == nil || *condition }
