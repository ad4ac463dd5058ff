package rotate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/activities/verify"
)

// Consumer is one consumer of a target, as the observe zone knows it.
type Consumer struct {
	Name     string
	Verifier verify.Verifier
}

// Watcher is the saga's step in the observe zone: it asks every consumer what it uses right now.
type Watcher struct {
	consumers func(target string) ([]Consumer, bool)
	journal   journal
	now       func() time.Time
}

// NewWatcher wires the observe zone's step.
func NewWatcher(consumers func(target string) ([]Consumer, bool), recorder record.Recorder, now func() time.Time) *Watcher {
	return &Watcher{consumers: consumers, journal: journal{recorder: recorder, now: now}, now: now}
}

// Poll pauses between two looks at the consumers: soon at first, because a hot reload takes
// milliseconds, then seldom, because a straggler takes hours.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Converge looks at the consumers until all are proven to use the candidate or patience runs out, and
// says who is missing. It never decides that waiting is enough.
func (w *Watcher) Converge(ctx context.Context, request activities.ConvergeRequest) (activities.ConvergeResult, error) {
	consumers, err := w.choose(request)
	if err != nil {
		return activities.ConvergeResult{}, err
	}
	deadline := w.now().Add(request.Patience)
	pause := firstPause
	var before []activities.Straggler
	for {
		result, err := w.look(ctx, consumers, request)
		if err != nil {
			return activities.ConvergeResult{}, err
		}
		keepSince(result.Stragglers, before)
		before = result.Stragglers
		if len(result.Stragglers) == 0 || !w.now().Before(deadline) {
			return w.report(ctx, request, result)
		}
		select {
		case <-ctx.Done():
			return activities.ConvergeResult{}, ctx.Err()
		case <-time.After(pause):
		}
		pause = min(pause*2, lastPause)
	}
}

// keepSince dates each straggler from when it was first seen in its standing.
func keepSince(now, before []activities.Straggler) {
	for i := range now {
		for _, known := range before {
			if known.Consumer == now[i].Consumer && known.Address == now[i].Address && known.Standing == now[i].Standing {
				now[i].Since = known.Since
			}
		}
	}
}

// choose resolves the requested consumers in this worker's own configuration.
func (w *Watcher) choose(request activities.ConvergeRequest) ([]Consumer, error) {
	all, ok := w.consumers(request.Target)
	if !ok {
		return nil, activities.Errorf(activities.Invalid, "target %q is not in this worker's configuration", request.Target)
	}
	var chosen []Consumer
	for _, name := range request.Consumers {
		i := slices.IndexFunc(all, func(c Consumer) bool { return c.Name == name })
		if i < 0 {
			return nil, activities.Errorf(activities.Invalid, "target %q has no consumer %q in this worker's configuration", request.Target, name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// look makes one round over the consumers.
func (w *Watcher) look(ctx context.Context, consumers []Consumer, request activities.ConvergeRequest) (activities.ConvergeResult, error) {
	var result activities.ConvergeResult
	want := verify.Expectation{Fingerprint: request.Fingerprint, Previous: request.Previous}
	for _, consumer := range consumers {
		sightings, err := consumer.Verifier.Verify(ctx, want)
		if err != nil && ctx.Err() != nil {
			return result, ctx.Err()
		}
		if err != nil {
			result.Stragglers = append(result.Stragglers, activities.Straggler{Consumer: consumer.Name, Standing: activities.Unverifiable, Detail: err.Error(), Since: w.now().UTC()})
			continue
		}
		if err == nil && len(sightings) == 0 {
			sightings = []verify.Sighting{{Standing: activities.Unverifiable, At: w.now().UTC(), Detail: "nothing was seen of this consumer"}}
		}
		missing := false
		for _, seen := range sightings {
			result.Addresses++
			result.Seen = append(result.Seen, activities.Straggler{
				Consumer: consumer.Name, Address: seen.Address, Standing: seen.Standing,
				Serves: seen.Serves, Since: seen.At, Detail: seen.Detail,
			})
			if seen.Standing == activities.UsesCandidate {
				continue
			}
			missing = true
			result.Stragglers = append(result.Stragglers, result.Seen[len(result.Seen)-1])
		}
		if !missing && len(sightings) > 0 {
			result.Converged = append(result.Converged, consumer.Name)
		}
	}
	return result, nil
}

// report records what the last round showed. Its evidence id is what a retirement must name.
func (w *Watcher) report(ctx context.Context, request activities.ConvergeRequest, result activities.ConvergeResult) (activities.ConvergeResult, error) {
	result.Proof.At = w.now().UTC()
	facts := map[string]string{
		record.FactFingerprint: request.Fingerprint,
		"addresses":            strconv.Itoa(result.Addresses),
	}
	if err := encodeFact(facts, record.FactConverged, result.Converged); err != nil {
		return result, err
	}
	if err := encodeFact(facts, record.FactStragglers, result.Stragglers); err != nil {
		return result, err
	}
	if err := encodeFact(facts, record.FactSightings, result.Seen); err != nil {
		return result, err
	}
	// A look before publication, one at a wave and the last one say different things: none may be taken
	// for a repetition of another.
	scope := "wave"
	switch {
	case request.Patience == 0:
		scope = "baseline"
	case request.Last:
		scope = "all"
	}
	outcome, suffix := "converged", "converged/"+scope+"/"+digest(request.Consumers, request.Fingerprint)
	if request.Last && len(result.Stragglers) == 0 {
		facts[record.FactState] = string(activities.Converged)
	}
	if len(result.Stragglers) > 0 {
		outcome = "stragglers"
		suffix = "stragglers/" + standings(result.Stragglers)
	}
	id, err := w.journal.fact(ctx, request.StepRequest, suffix, outcome, facts)
	if err != nil {
		return result, err
	}
	result.Proof.Evidence = []string{id}
	return result, nil
}

// factLimit keeps a list's JSON within what one fact of the ledger may hold.
const factLimit = 7 << 10

// encodeFact adds the list as JSON, shortened from its end if it is too long; how many are left out is
// a fact of its own.
func encodeFact[T any](facts map[string]string, name string, list []T) error {
	for kept := len(list); ; kept /= 2 {
		text, err := json.Marshal(append([]T{}, list[:kept]...))
		if err != nil {
			return activities.Errorf(activities.Invalid, "encode %s: %w", name, err)
		}
		if len(text) <= factLimit || kept == 0 {
			facts[name] = string(text)
			if kept < len(list) {
				facts[name+"_omitted"] = strconv.Itoa(len(list) - kept)
			}
			return nil
		}
	}
}

// standings digests who is in which standing, so that the same picture is recorded once per rotation
// and a changed one again.
func standings(stragglers []activities.Straggler) string {
	var lines []string
	for _, s := range stragglers {
		lines = append(lines, s.Consumer+" "+s.Address+" "+string(s.Standing)+" "+s.Serves+" "+s.Since.UTC().Format(time.RFC3339Nano))
	}
	sort.Strings(lines)
	return digest(lines, "")
}

func digest(parts []string, more string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n") + "\x00" + more))
	return hex.EncodeToString(sum[:8])
}
