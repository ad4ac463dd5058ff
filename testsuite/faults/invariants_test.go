package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/store"
	"castellan.dev/testsuite/leak"
)

// check asserts the invariants of rotation-protocols 5.0 and returns what is violated.
func (c *trial) check(ctx context.Context) []string {
	var violations []string
	violated := func(format string, args ...any) { violations = append(violations, fmt.Sprintf(format, args...)) }

	if !c.outage {
		violations = append(violations, c.probe.judge()...)
	}
	_, _, served := c.probe.read()
	if _, err := c.loader()(); err != nil {
		return append(violations, "I2 nothing lost: the delivered pair cannot be read: "+err.Error())
	}
	if c.end() != activities.Quarantined {
		violations = append(violations, c.checkStore(ctx)...)
	}
	if len(served) == 0 {
		violated("the probe saw nothing")
	}
	violations = append(violations, c.checkLedger(ctx)...)
	violations = append(violations, c.checkSecrecy()...)
	return violations
}

// judge says what the probe saw that must not be.
func (p *probe) judge() []string {
	var violations []string
	_, failures, served := p.read()
	if len(failures) > 0 {
		violations = append(violations, fmt.Sprintf("I1 availability: %d failed probes, first %s", len(failures), failures[0]))
	}
	for i, fingerprint := range served {
		if slices.Contains(served[:i], fingerprint) {
			violations = append(violations, fmt.Sprintf("I3 monotone: %.12s was served again after another", fingerprint))
		}
	}
	return violations
}

// checkStore: what is served is what the head calls current, its key is in the store, and no other is.
func (c *trial) checkStore(ctx context.Context) []string {
	var violations []string
	document, err := c.lab.secrets.Read(ctx, rotate.HeadName(c.target))
	if err != nil {
		return []string{"I2 nothing lost: " + err.Error()}
	}
	var head rotate.Head
	if err := json.Unmarshal(document.Value, &head); err != nil {
		return []string{"I2 nothing lost: " + err.Error()}
	}
	_, _, served := c.probe.read()
	if n := len(served); n > 0 && head.Current.Fingerprint != served[n-1] {
		violations = append(violations, fmt.Sprintf("I2 nothing lost: %.12s is served, the store calls %.12s current", served[n-1], head.Current.Fingerprint))
	}
	names, err := c.lab.secrets.List(ctx, "keys/"+c.target+"/")
	if err != nil {
		return append(violations, "I4 no orphan: "+err.Error())
	}
	var alive []string
	for _, name := range names {
		versions, err := c.lab.secrets.Versions(ctx, name)
		if err != nil {
			return append(violations, "I4 no orphan: "+err.Error())
		}
		if slices.ContainsFunc(versions, func(v store.VersionInfo) bool { return !v.Erased }) {
			alive = append(alive, name)
		}
	}
	want := fmt.Sprintf("keys/%s/%d", c.target, head.Current.Epoch)
	if len(alive) != 1 || alive[0] != want {
		violations = append(violations, fmt.Sprintf("I4 no orphan: keys alive %v, want only %s", alive, want))
	}
	return violations
}

// line is one record of an export, as far as the checks need it.
type line struct {
	Index     int64        `json:"index,string"`
	Submitter string       `json:"submitter"`
	Entry     record.Entry `json:"entry"`
}

// records reads the target's evidence.
func (c *trial) records(ctx context.Context) ([]line, error) {
	export, err := c.lab.api.Evidence(ctx, url.Values{})
	if err != nil {
		return nil, err
	}
	defer export.Close()
	var found []line
	scanner := bufio.NewScanner(export)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var wrapped struct {
			Record json.RawMessage `json:"record"`
		}
		text := scanner.Bytes()
		if json.Unmarshal(text, &wrapped) == nil && len(wrapped.Record) > 0 {
			text = wrapped.Record
			var quoted string
			if json.Unmarshal(text, &quoted) == nil {
				text = []byte(quoted)
			}
		}
		var l line
		if json.Unmarshal(text, &l) == nil && l.Entry.Target == c.target {
			found = append(found, l)
		}
	}
	return found, scanner.Err()
}

// checkLedger: one candidate per rotation, epochs that grow, no retirement without proof of convergence.
func (c *trial) checkLedger(ctx context.Context) []string {
	found, err := c.records(ctx)
	if err != nil {
		return []string{"evidence: " + err.Error()}
	}
	if len(found) == 0 {
		return []string{"evidence: no record of the target"}
	}
	return judge(found)
}

// judge reads a target's records in the order of the ledger.
func judge(found []line) []string {
	var violations []string
	keys, converged := map[activities.Epoch]string{}, map[activities.Epoch]bool{}
	var highest activities.Epoch
	for _, l := range found {
		e := l.Entry
		if key := e.Facts[record.FactKeyID]; key != "" && e.Rotation != "" {
			if known, ok := keys[e.Epoch]; ok && known != key {
				violations = append(violations, fmt.Sprintf("a second candidate was minted for %s", e.Rotation))
			}
			keys[e.Epoch] = key
		}
		if e.Step == "rotate.open" && e.Rotation != "" {
			if e.Epoch <= highest {
				violations = append(violations, fmt.Sprintf("I3 monotone: epoch %d was opened after %d", e.Epoch, highest))
			}
			highest = e.Epoch
		}
		if e.Phase == record.Fact && e.Facts[record.FactState] == string(activities.Converged) {
			converged[e.Epoch] = true
		}
		if e.Step == "rotate.retire" && e.Phase == record.Intent && !converged[e.Epoch] {
			violations = append(violations, fmt.Sprintf("I6 order: %s retired the previous without proof of convergence", e.Rotation))
		}
	}
	return violations
}

// checkSecrecy searches everything that is not a secret's home for the key that is delivered.
func (c *trial) checkSecrecy() []string {
	text, err := c.key()
	if err != nil {
		return []string{"I5 secrecy: " + err.Error()}
	}
	block := keyBlock(text)
	if block == nil {
		return []string{"I5 secrecy: the delivered key cannot be read"}
	}
	hits, err := leak.Search([]leak.Canary{leak.New("delivered key", string(block))},
		leak.Dir(filepath.Join(c.lab.state(), "engine")),
		leak.File(filepath.Join(c.lab.state(), "service.db")), leak.File(filepath.Join(c.lab.state(), "service.db-wal")),
		leak.File(filepath.Join(c.lab.dir, "dev.log")), leak.File(filepath.Join(c.lab.dir, c.target+".log")),
	)
	if err != nil {
		return []string{"I5 secrecy: " + err.Error()}
	}
	var violations []string
	for _, hit := range hits {
		violations = append(violations, "I5 secrecy: "+hit.String())
	}
	return violations
}

// keyBlock finds the private key in PEM text.
func keyBlock(text []byte) []byte {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil
		}
		if block.Type == "PRIVATE KEY" {
			return pem.EncodeToMemory(block)
		}
		text = rest
	}
}
