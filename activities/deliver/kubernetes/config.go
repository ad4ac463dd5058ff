package kubernetes

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"castellan.dev/internal/kubeapi"
)

// Config declares a delivery as a TLS Secret.
type Config struct {
	kubeapi.Config `yaml:",inline"`

	Namespace string `yaml:"namespace"` // required
	Secret    string `yaml:"secret"`    // required; created with type kubernetes.io/tls if it is absent
}

// Check reports every problem of the configuration.
func (c Config) Check(report func(field, value, want string)) {
	c.Config.Check(report)
	checkNamespace(c.Namespace, report)
	checkName("secret", c.Secret, "a Secret's name", report)
}

// RolloutConfig declares a reload that restarts a workload.
type RolloutConfig struct {
	kubeapi.Config `yaml:",inline"`

	Namespace string        `yaml:"namespace"` // required
	Secret    string        `yaml:"secret"`    // required: the Secret whose change the restart is for
	Workload  string        `yaml:"workload"`  // required: deployment/name, statefulset/name or daemonset/name
	Window    time.Duration `yaml:"window"`    // changes of other Secrets within it share the restart; default 5s, at most 30s
}

const (
	defaultWindow = 5 * time.Second
	maxWindow     = 30 * time.Second // a reload waits for it inside one attempt of its activity
)

// Check reports every problem of the configuration.
func (c RolloutConfig) Check(report func(field, value, want string)) {
	c.Config.Check(report)
	checkNamespace(c.Namespace, report)
	checkName("secret", c.Secret, "a Secret's name", report)
	kind, name, _ := strings.Cut(c.Workload, "/")
	_, known := workloadKinds[kind]
	if !known || len(validation.IsDNS1123Subdomain(name)) > 0 {
		report("workload", c.Workload, "deployment/NAME, statefulset/NAME or daemonset/NAME")
	}
	if c.Window < 0 || c.Window > maxWindow {
		report("window", c.Window.String(), "a duration from 0s (the default of 5s) to 30s")
	}
}

func (c RolloutConfig) window() time.Duration {
	if c.Window == 0 {
		return defaultWindow
	}
	return c.Window
}

func checkNamespace(value string, report func(field, value, want string)) {
	if len(validation.IsDNS1123Label(value)) > 0 {
		report("namespace", value, "a namespace's name")
	}
}

func checkName(field, value, want string, report func(field, value, want string)) {
	if len(validation.IsDNS1123Subdomain(value)) > 0 {
		report(field, value, want)
	}
}

// problems collects what check reports, for constructors that are handed an unchecked configuration.
func problems(check func(report func(field, value, want string))) error {
	var found []string
	check(func(field, value, want string) { found = append(found, field+" "+quote(value)+": want "+want) })
	if len(found) == 0 {
		return nil
	}
	return invalid(slices.Compact(found))
}
