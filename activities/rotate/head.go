package rotate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
)

// Head is the one document per target that says where its rotations stand. It lives in the store and
// changes only by check-and-set, so epochs are allocated once whatever happens to the engine. It holds
// no key material.
type Head struct {
	Target   string                `json:"target"`
	Kind     string                `json:"kind"`
	Epoch    activities.Epoch      `json:"epoch"`    // the highest epoch ever allocated: the fence
	Rotation activities.RotationID `json:"rotation"` // the rotation in hand, or the last one
	Of       activities.Epoch      `json:"of"`       // its epoch; lower than Epoch after a rollback
	Run      string                `json:"run"`      // first run id of the workflow that drives it
	Trigger  activities.Trigger    `json:"trigger"`
	Resumed  bool                  `json:"resumed,omitempty"` // another run than the one that opened it drives it
	Verdict  activities.Verdict    `json:"verdict,omitzero"`  // why it was opened
	State    activities.State      `json:"state"`
	Opened   time.Time             `json:"opened"`
	Updated  time.Time             `json:"updated"`

	Candidate activities.Candidate `json:"candidate"`
	Current   Known                `json:"current"`             // what consumers were proven to use last
	Previous  Known                `json:"previous"`            // what they used before; erased when retired
	Delivered map[string]string    `json:"delivered,omitempty"` // delivery to the fingerprint seen there when the rotation began
	Published []string             `json:"published,omitempty"` // deliveries that the candidate may have reached
	Restored  bool                 `json:"restored,omitempty"`  // the previous was put back everywhere
	Sought    bool                 `json:"sought,omitempty"`    // the previous was revoked, and its peers were asked
	Dead      bool                 `json:"dead,omitempty"`      // with Sought: it was proven refused
	Leftover  []activities.Epoch   `json:"leftover,omitempty"`  // keys of earlier epochs that nobody has erased yet
	Sentence  string               `json:"sentence,omitempty"`  // why it ended as it did
	History   []Ended              `json:"history,omitempty"`   // the last few rotations, so that a reset run finds its own
}

// Known is a credential that castellan knows: by its fingerprint, and by the epoch under which its key
// was minted (zero: not minted by castellan).
type Known struct {
	Epoch       activities.Epoch `json:"epoch,omitempty"`
	Fingerprint string           `json:"fingerprint,omitempty"`
	Serial      string           `json:"serial,omitempty"`
	NotAfter    time.Time        `json:"not_after,omitzero"`
}

// Ended is a rotation that is over.
type Ended struct {
	Rotation activities.RotationID `json:"rotation"`
	Epoch    activities.Epoch      `json:"epoch"`
	Run      string                `json:"run"`
	State    activities.State      `json:"state"`
	Sentence string                `json:"sentence,omitempty"`
}

// remembered is how many ended rotations a head keeps. A run that is reset after more rotations than
// this have passed is told that it was superseded, which is true.
const remembered = 16

// HeadName returns the store name of a target's head.
func HeadName(target string) string { return "heads/" + target }

// Open reports whether a rotation is in hand.
func (h Head) Open() bool { return h.Rotation != "" && !h.State.Ended() }

// parked reports whether the rotation in hand was asked to stop before anything is published, and has.
func (h Head) parked() bool {
	return h.Open() && h.Trigger.Until != "" && h.State == activities.Tested && len(h.Published) == 0
}

// known returns what castellan knows of a credential that was seen on the target: under which epoch its
// key was minted, if it was. A rotation that stopped for a person may have left its candidate there.
func (h Head) known(seen activities.Candidate) Known {
	candidate := Known{Epoch: h.Of, Fingerprint: h.Candidate.Fingerprint, Serial: h.Candidate.Serial, NotAfter: h.Candidate.NotAfter}
	for _, one := range []Known{h.Current, h.Previous, candidate} {
		if one.Fingerprint == seen.Fingerprint {
			return one
		}
	}
	return Known{Fingerprint: seen.Fingerprint, Serial: seen.Serial, NotAfter: seen.NotAfter}
}

// forgo notes that the keys of these epochs, unless one is still the current credential's, are to be
// erased when the next rotation retires what was there before.
func (h *Head) forgo(epochs ...activities.Epoch) {
	for _, epoch := range epochs {
		if epoch != 0 && epoch != h.Current.Epoch && !slices.Contains(h.Leftover, epoch) {
			h.Leftover = append(h.Leftover, epoch)
		}
	}
}

// end notes that the rotation in hand is over.
func (h *Head) end(state activities.State, sentence string) {
	h.State, h.Sentence = state, sentence
	for _, ended := range h.History {
		if ended.Rotation == h.Rotation {
			return
		}
	}
	h.History = append(h.History, Ended{Rotation: h.Rotation, Epoch: h.Of, Run: h.Run, State: state, Sentence: sentence})
	if extra := len(h.History) - remembered; extra > 0 {
		h.History = h.History[extra:]
	}
}

// heads reads and writes heads under check-and-set.
type heads struct {
	store store.Store
	now   func() time.Time
}

// read returns the head and its version; a target without one has the zero head and version 0.
func (h heads) read(ctx context.Context, target string) (Head, store.Version, error) {
	document, err := h.store.Read(ctx, HeadName(target))
	if activities.KindOf(err) == activities.NotFound && err != nil {
		return Head{Target: target}, 0, nil
	}
	if err != nil {
		return Head{}, 0, fmt.Errorf("read head of %q: %w", target, err)
	}
	var head Head
	if err := json.Unmarshal(document.Value, &head); err != nil {
		return Head{}, 0, activities.Errorf(activities.Invalid, "read head of %q: %w", target, err)
	}
	return head, document.Version, nil
}

// write stores the head if its version is still expected. A lost reply is settled by reading back.
func (h heads) write(ctx context.Context, head Head, expected store.Version) error {
	head.Updated = h.now().UTC()
	value, err := json.Marshal(head)
	if err != nil {
		return activities.Errorf(activities.Invalid, "encode head of %q: %w", head.Target, err)
	}
	version, err := h.store.Write(ctx, HeadName(head.Target), value, expected)
	if err == nil {
		h.prune(ctx, head.Target, version)
		return nil
	}
	if activities.KindOf(err) == activities.Uncertain {
		found, readErr := h.store.Read(ctx, HeadName(head.Target))
		if readErr == nil && found.Version == expected+1 && string(found.Value) == string(value) {
			return nil
		}
	}
	return fmt.Errorf("write head of %q: %w", head.Target, err)
}

// prune erases the version before the last two. A head changes several times per rotation, and only
// its latest version means anything; a failure is harmless, because nothing reads the others.
func (h heads) prune(ctx context.Context, target string, version store.Version) {
	if version > 2 {
		_ = h.store.Erase(ctx, HeadName(target), version-2)
	}
}

// held reads the head and checks that the request's rotation is still the one in hand. A newer epoch
// means that the step is late and must stop.
func (h heads) held(ctx context.Context, request activities.StepRequest) (Head, store.Version, error) {
	head, version, err := h.read(ctx, request.Target)
	if err != nil {
		return Head{}, 0, err
	}
	if head.Rotation != request.Rotation || head.Of != request.Epoch {
		return Head{}, 0, activities.Errorf(activities.Fenced,
			"rotation %s is no longer in hand: the store says %s", request.Rotation, head.Rotation)
	}
	return head, version, nil
}

// order ranks the states of a rotation that moves forward.
var order = map[activities.State]int{
	activities.Planned: 1, activities.Minted: 2, activities.Set: 3, activities.Tested: 4,
	activities.Published: 5, activities.Converged: 6, activities.Retired: 7, activities.ProvenDead: 8,
}

// advance moves the head to state, unless it is there or further already, after letting change edit it.
// A conflict with another attempt of the same rotation is settled by reading again.
func (h heads) advance(ctx context.Context, request activities.StepRequest, state activities.State, change func(*Head)) (Head, error) {
	for {
		head, version, err := h.held(ctx, request)
		if err != nil {
			return Head{}, err
		}
		if head.State.Ended() && head.State != state {
			return head, activities.Errorf(activities.Fenced, "rotation %s ended already: %s", request.Rotation, head.State)
		}
		before, _ := json.Marshal(head)
		if order[head.State] < order[state] || state.Ended() {
			head.State = state
		}
		if change != nil {
			change(&head)
		}
		if after, _ := json.Marshal(head); string(after) == string(before) {
			return head, nil
		}
		err = h.write(ctx, head, version)
		if err == nil {
			return head, nil
		}
		if kind := activities.KindOf(err); kind != activities.Conflict || ctx.Err() != nil {
			return Head{}, err
		}
	}
}
