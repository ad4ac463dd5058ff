package config

import (
	"cmp"
	"io"
	"os"
	"reflect"
	"time"
)

// Load reads the configuration from a file. On problems the configuration is what could be
// understood of it, for messages only; nothing may run on it.
func Load(path string) (*Config, Problems) {
	file, err := os.Open(path)
	if err != nil {
		return &Config{file: path}, Problems{{File: path, Value: err.Error(), Want: "a readable file"}}
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return &Config{file: path}, Problems{{File: path, Value: err.Error(), Want: "a readable file"}}
	}
	return Parse(path, data, os.LookupEnv)
}

// Parse is Load for data in memory. The name stands in problems; lookup resolves environment
// variables.
func Parse(name string, data []byte, lookup func(string) (string, bool)) (*Config, Problems) {
	c := &Config{file: name, lines: map[string]int{}}
	root, problems := tree(name, data)
	if root == nil {
		return c, problems.sorted()
	}
	problems = append(problems, expand(name, root, lookup)...)
	d := decoder{file: name, lines: c.lines, problems: problems}
	d.value("", root, reflect.ValueOf(c).Elem())
	check := checks{config: c, decoder: &d}
	check.all()
	c.defaults()
	return c, d.problems.sorted()
}

// defaults fills in what the file leaves out and what does not depend on the process or on a kind.
func (c *Config) defaults() {
	c.Environment = cmp.Or(c.Environment, Development)
	c.Ledger.URL = cmp.Or(c.Ledger.URL, c.API.PublicURL)
	c.Ledger.Checkpoints.Every = cmp.Or(c.Ledger.Checkpoints.Every, time.Hour)
	c.API.Listen = cmp.Or(c.API.Listen, "127.0.0.1:8443")
	c.API.Login.Session = cmp.Or(c.API.Login.Session, 8*time.Hour)
	c.Telemetry.Log.Format = cmp.Or(c.Telemetry.Log.Format, "text")
	c.Telemetry.Log.Level = cmp.Or(c.Telemetry.Log.Level, "info")
	if c.Codec.Vault != nil {
		c.Codec.Vault.Transit = cmp.Or(c.Codec.Vault.Transit, "transit")
	}
	for name, certificate := range c.Certificates {
		certificate.defaults()
		c.Certificates[name] = certificate
	}
}

// defaults fills in what the file leaves out about one certificate.
func (c *Certificate) defaults() {
	c.Usage = cmp.Or(c.Usage, "server")
	c.Key = cmp.Or(c.Key, "ecdsa-p256")
	c.Canary = cmp.Or(c.Canary, 1)
	c.CanaryGrace = cmp.Or(c.CanaryGrace, time.Minute)
	if c.CommonName == "" && len(c.DNSNames) > 0 {
		c.CommonName = c.DNSNames[0]
	}
	all := make([]string, len(c.Deliveries))
	for i := range c.Deliveries {
		c.Deliveries[i].Name = cmp.Or(c.Deliveries[i].Name, c.Deliveries[i].Kind)
		all[i] = c.Deliveries[i].Name
	}
	for i := range c.Consumers {
		c.Consumers[i].Name = cmp.Or(c.Consumers[i].Name, c.Consumers[i].Kind)
		if len(c.Consumers[i].Delivery) == 0 {
			c.Consumers[i].Delivery = all
		}
	}
}
