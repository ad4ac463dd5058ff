package schedules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// shape is a schedule as the engine keeps it, reduced to what is compared. Declared and actual schedules
// are brought into this form; two of them are the same if all fields are.
type shape struct {
	Every          time.Duration
	Jitter         time.Duration
	Overlap        string
	CatchUp        time.Duration
	PauseOnFailure bool
	Workflow       string
	Queue          string
	Input          string // canonical JSON
	Other          string // anything that castellan never declares: calendars, end dates, limits
}

// field is one property of a shape.
type field struct{ name, value string }

// fields lists the properties in the order in which they are shown.
func (s shape) fields() []field {
	pause := "off"
	if s.PauseOnFailure {
		pause = "on"
	}
	return []field{
		{"every", s.Every.String()}, {"jitter", s.Jitter.String()}, {"overlap", s.Overlap}, {"catch-up", s.CatchUp.String()},
		{"pause on failure", pause}, {"workflow", s.Workflow}, {"queue", s.Queue}, {"input", s.Input}, {"other", s.Other},
	}
}

// digest identifies a shape. Castellan writes it into the id of the workflow that the schedule starts:
// the one place of a schedule that is in clear, survives pausing and can be updated. It tells a
// declaration that changed from a schedule that somebody edited.
func (s shape) digest() string {
	hash := sha256.New()
	for _, f := range s.fields() {
		fmt.Fprintf(hash, "%q=%q\n", f.name, f.value)
	}
	return hex.EncodeToString(hash.Sum(nil)[:6])
}

// shape returns the declared schedule's shape.
func (s Schedule) shape() (shape, error) {
	input, err := canonical(s.Input)
	if err != nil {
		return shape{}, fmt.Errorf("encode input of schedule %q: %w", s.Name, err)
	}
	return shape{
		Every: s.Every, Jitter: s.Jitter, Overlap: string(s.Overlap), CatchUp: s.CatchUp,
		Workflow: s.Workflow, Queue: s.Queue, Input: input,
	}, nil
}

// canonical returns a value as JSON with sorted keys.
func canonical(value any) (string, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	var generic any
	if err := json.Unmarshal(data, &generic); err != nil {
		return "", err
	}
	data, err = json.Marshal(generic)
	return string(data), err
}

// workflowID returns the id of the workflow that a schedule starts; the engine appends the time.
func workflowID(id, digest string) string { return id + "/" + digest }

// digestIn returns the digest that castellan wrote when it last applied the schedule, or "".
func digestIn(workflowID, id string) string {
	digest, found := strings.CutPrefix(workflowID, id+"/")
	if _, err := hex.DecodeString(digest); !found || err != nil || len(digest) != 12 {
		return ""
	}
	return digest
}
