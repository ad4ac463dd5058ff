package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// What the ledger records about itself, under names that nobody may submit.
const (
	systemWorkflow = "castellan/ledger"
	systemActor    = "ledger"
	stepBegin      = "ledger.begin"
	stepKeyChange  = "ledger.key-change"
)

// Facts of the ledger's own records.
const (
	factOrigin   = "origin"
	factKey      = "key"
	factPrevious = "previous"
	factNote     = "note"
)

// version is the version of the record format.
const version = "1"

// Bounds of an entry. They keep one submitter from filling the database with one request.
const (
	maxName  = 512       // workflow, run, step, target, rotation, actor, result, a fact's name
	maxText  = 8 << 10   // reason, a fact's value
	maxFacts = 256       // number of facts
	maxBody  = 128 << 10 // the whole record, canonical
)

// Record is one record of the ledger: an entry and what the writer added to it.
type Record struct {
	Version   string       `json:"v"`
	ID        string       `json:"id"`
	Index     int64        `json:"index,string"`
	Received  time.Time    `json:"received"`  // by the writer's clock
	Submitter string       `json:"submitter"` // identity that the writer has verified
	Entry     record.Entry `json:"entry"`
}

// ID returns the id under which the ledger keeps an entry: a hash of workflow, step, epoch and phase,
// each with its length, so that no two different entries spell the same.
func ID(entry record.Entry) string {
	sum := sha256.Sum256(spelling(entry.Workflow, entry.Step, entry.Epoch, entry.Phase))
	return hex.EncodeToString(sum[:])
}

func spelling(workflow, step string, epoch activities.Epoch, phase record.Phase) []byte {
	text := []byte("castellan.dev/ledger/record\n")
	for _, field := range []string{workflow, step, strconv.FormatUint(uint64(epoch), 10), string(phase)} {
		text = strconv.AppendInt(text, int64(len(field)), 10)
		text = append(text, ':')
		text = append(text, field...)
	}
	return text
}

// check returns the first reason why the entry cannot be recorded.
func check(entry record.Entry) error {
	for _, field := range []struct{ name, value string }{
		{"workflow", entry.Workflow}, {"step", entry.Step}, {"run", entry.Run}, {"target", entry.Target},
		{"rotation", string(entry.Rotation)}, {"actor", entry.Actor}, {"result", entry.Result},
	} {
		if err := checkText(field.name, field.value, maxName); err != nil {
			return err
		}
	}
	switch {
	case entry.Workflow == "", entry.Step == "":
		return invalid("check entry: workflow %q and step %q must not be empty", entry.Workflow, entry.Step)
	case entry.Phase != record.Intent && entry.Phase != record.Outcome && entry.Phase != record.Fact:
		return invalid("check entry: phase %q is not intent, outcome or fact", entry.Phase)
	case entry.At.IsZero(), entry.At.UTC().Year() < 1970, entry.At.UTC().Year() > 9999:
		return invalid("check entry: time %q is not between 1970 and 9999", entry.At.Format(time.RFC3339))
	case len(entry.Facts) > maxFacts:
		return invalid("check entry: %d facts, at most %d are kept", len(entry.Facts), maxFacts)
	}
	for name, value := range entry.Facts {
		if err := checkText("name of a fact", name, maxName); err != nil {
			return err
		}
		if err := checkText("fact "+strconv.Quote(name), value, maxText); err != nil {
			return err
		}
	}
	return checkText("reason", entry.Reason, maxText)
}

// checkText refuses what JSON would change silently or a database would not keep. It never quotes the value.
func checkText(name, value string, limit int) error {
	if len(value) > limit {
		return invalid("check entry: %s has %d bytes, at most %d are kept", name, len(value), limit)
	}
	if !utf8.ValidString(value) || strings.ContainsRune(value, 0) { // PostgreSQL keeps no NUL
		return invalid("check entry: %s is not valid UTF-8 without NUL", name)
	}
	return nil
}

// normal returns the entry as it is recorded: times in UTC, the submitter as actor when none is named.
func normal(submitter string, entry record.Entry) record.Entry {
	entry.At = entry.At.UTC()
	if entry.Actor == "" {
		entry.Actor = submitter
	}
	if len(entry.Facts) == 0 {
		entry.Facts = nil
	}
	return entry
}

// differs reports whether a repeated entry claims something else than the first. Run, actor and time
// may change when a step is repeated.
func differs(first, again record.Entry) bool {
	return first.Target != again.Target || first.Rotation != again.Rotation || first.Result != again.Result ||
		first.Reason != again.Reason || !maps.Equal(first.Facts, again.Facts)
}

// Authorize is the default rule of who may submit what: nobody may claim to be another zone, and only
// the ledger itself writes about the ledger.
func Authorize(submitter string, entry record.Entry) error {
	zone, _, _ := strings.Cut(entry.Actor, "/")
	for _, known := range activities.Zones() {
		if zone == string(known) && entry.Actor != submitter {
			return activities.Errorf(activities.Denied, "submit evidence: %q may not speak for %q", submitter, entry.Actor)
		}
	}
	return nil
}

// decodeRecord reads a record's body.
func decodeRecord(body []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(body, &r); err != nil {
		return Record{}, err
	}
	return r, nil
}

func invalid(format string, args ...any) error {
	return activities.Errorf(activities.Invalid, format, args...)
}
