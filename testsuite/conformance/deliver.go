package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
)

// Delivery is one empty delivery, as RunDeliverer needs it.
type Delivery struct {
	Deliverer deliver.Deliverer
	// Another returns a deliverer of the same delivery that shares no memory with the first, as another
	// process would have it.
	Another func() deliver.Deliverer
	// Read returns what a consumer reads in its atomic way; both are empty when nothing is delivered.
	Read func() (chain, key []byte, err error)
	// Foreign replaces the content as somebody else would.
	Foreign func(chain, key []byte) error
	// Kept returns every byte that the delivery keeps beside what consumers read, so that the suite can
	// look for keys in it. Nil when it keeps nothing of its own.
	Kept func() ([]byte, error)
	// Break makes writes to the target fail until mend is called. Nil when that cannot be done.
	Break func() (mend func())
}

// RunDeliverer checks the contract of deliver.Deliverer. Each case gets a delivery of its own.
func RunDeliverer(t *testing.T, empty func(t *testing.T) Delivery) {
	for promise, check := range delivererChecks {
		t.Run(promise, func(t *testing.T) {
			check(&deliveryCase{TB: t, Delivery: empty(t), ca: NewAuthority(t, "deliveries"), ctx: t.Context()})
		})
	}
}

// delivererChecks are the promises of a deliverer.
var delivererChecks = map[string]func(*deliveryCase){
	"an empty delivery shows nothing and observing leaves nothing":   (*deliveryCase).emptyShowsNothing,
	"a publication is what consumers read":                           (*deliveryCase).publicationIsRead,
	"publishing again after a lost reply changes nothing":            (*deliveryCase).publishAgain,
	"a lost reply does not lose what was there before":               (*deliveryCase).publishAgainKeepsPrevious,
	"an older epoch is fenced and changes nothing":                   (*deliveryCase).olderEpochIsFenced,
	"another certificate under a used epoch is fenced":               (*deliveryCase).usedEpochIsFenced,
	"a foreign writer's change is a conflict and stays":              (*deliveryCase).foreignIsConflict,
	"a foreign writer's change is observed as foreign":               (*deliveryCase).foreignIsObserved,
	"content of others is adopted under its fingerprint":             (*deliveryCase).adoption,
	"a restore brings the previous back under a newer epoch":         (*deliveryCase).restore,
	"a restore undoes only publications that happened":               (*deliveryCase).restoreNothing,
	"a late publication after a restore is fenced":                   (*deliveryCase).publicationAfterRestore,
	"a late restore is fenced":                                       (*deliveryCase).lateRestore,
	"a restore leaves a foreign writer's change alone":               (*deliveryCase).restoreForeign,
	"retiring erases the previous key and nothing else":              (*deliveryCase).retire,
	"retiring an older epoch keeps what a newer one needs":           (*deliveryCase).retireOlder,
	"readers never see a certificate with another one's key":         (*deliveryCase).readers,
	"writers at once leave the newest epoch":                         (*deliveryCase).writers,
	"material that does not fit together is refused without a leak":  (*deliveryCase).badMaterial,
	"a target that fails gives a kind, no leak, and can be repeated": (*deliveryCase).brokenTarget,
	"a cancelled publication changes nothing":                        (*deliveryCase).cancelled,
}

type deliveryCase struct {
	testing.TB
	Delivery
	ca  *Authority
	ctx context.Context
}

func (c *deliveryCase) publish(m deliver.Material, expected string) deliver.Visible {
	c.Helper()
	seen, err := c.Deliverer.Publish(c.ctx, m, expected)
	if err != nil {
		c.Fatalf("publish epoch %d: %v", m.Epoch, err)
	}
	return seen
}

func (c *deliveryCase) observe() deliver.Visible {
	c.Helper()
	seen, err := c.Deliverer.Observe(c.ctx)
	if err != nil {
		c.Fatalf("observe: %v", err)
	}
	return seen
}

// wantRead checks that consumers read the material's pair.
func (c *deliveryCase) wantRead(m deliver.Material) {
	c.Helper()
	chain, key, err := c.Read()
	if err != nil {
		c.Fatalf("read as a consumer: %v", err)
	}
	if got := fingerprintOfPEM(chain); got != m.Fingerprint {
		c.Errorf("consumers read certificate %q, want %q", got, m.Fingerprint)
	}
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		c.Errorf("consumers read a pair that does not fit: %v", err)
	}
}

// wantVisible checks what an observation says about material.
func (c *deliveryCase) wantVisible(got deliver.Visible, m deliver.Material, epoch activities.Epoch) {
	c.Helper()
	if got.Fingerprint != m.Fingerprint || got.Epoch != epoch || got.Foreign {
		c.Errorf("visible: fingerprint %q, epoch %d, foreign %v; want %q, %d, false", got.Fingerprint, got.Epoch, got.Foreign, m.Fingerprint, epoch)
	}
	if !got.NotAfter.Equal(m.NotAfter) {
		c.Errorf("visible: not after %v, want %v", got.NotAfter, m.NotAfter)
	}
	if !bytes.HasPrefix(got.Chain, bytes.TrimSpace(m.Chain)) {
		c.Errorf("visible: the chain does not begin with what was delivered")
	}
}

func (c *deliveryCase) wantKind(err error, want activities.Kind) {
	c.Helper()
	if err == nil {
		c.Fatalf("got no error, want kind %q", want)
	}
	if got := activities.KindOf(err); got != want {
		c.Errorf("got kind %q, want %q: %v", got, want, err)
	}
}

// wantNoKey checks that a text does not hold the body of a key.
func (c *deliveryCase) wantNoKey(where, text string, keys ...[]byte) {
	c.Helper()
	for _, key := range keys {
		for line := range strings.Lines(string(key)) {
			if line = strings.TrimSpace(line); len(line) > 16 && !strings.HasPrefix(line, "-----") && strings.Contains(text, line) {
				c.Errorf("%s holds a line of a private key", where)
				return
			}
		}
	}
}

// holdsKey reports whether what the delivery keeps holds the key.
func (c *deliveryCase) holdsKey(key []byte) bool {
	c.Helper()
	all, err := c.Kept()
	if err != nil {
		c.Fatalf("read what is kept: %v", err)
	}
	block, _ := pem.Decode(key)
	body := strings.Join(strings.Split(strings.TrimSpace(string(key)), "\n")[1:2], "")
	return bytes.Contains(all, []byte(body)) || bytes.Contains(all, block.Bytes)
}

func (c *deliveryCase) emptyShowsNothing() {
	for range 2 {
		seen := c.observe()
		if diff := cmp.Diff(deliver.Visible{}, seen); diff != "" {
			c.Errorf("observation of nothing (-want +got):\n%s", diff)
		}
	}
	if chain, key, err := c.Read(); err != nil || len(chain)+len(key) > 0 {
		c.Errorf("consumers read %d and %d bytes (%v), want nothing", len(chain), len(key), err)
	}
}

func (c *deliveryCase) publicationIsRead() {
	m := c.ca.Material(c, 3)
	c.wantVisible(c.publish(m, ""), m, 3)
	c.wantRead(m)
	c.wantVisible(c.observe(), m, 3)
	next := c.ca.Material(c, 4)
	c.wantVisible(c.publish(next, m.Fingerprint), next, 4)
	c.wantRead(next)
	if seen, err := c.Another().Observe(c.ctx); err != nil {
		c.Errorf("observe as another process: %v", err)
	} else {
		c.wantVisible(seen, next, 4)
	}
}

func (c *deliveryCase) publishAgain() {
	m := c.ca.Material(c, 3)
	c.publish(m, "")
	for _, deliverer := range []deliver.Deliverer{c.Deliverer, c.Another()} {
		seen, err := deliverer.Publish(c.ctx, m, "")
		if err != nil {
			c.Fatalf("publish again: %v", err)
		}
		c.wantVisible(seen, m, 3)
	}
	c.wantRead(m)
}

func (c *deliveryCase) publishAgainKeepsPrevious() {
	previous, m := c.ca.Material(c, 3), c.ca.Material(c, 4)
	c.publish(previous, "")
	c.publish(m, previous.Fingerprint)
	if _, err := c.Another().Publish(c.ctx, m, previous.Fingerprint); err != nil {
		c.Fatalf("publish again: %v", err)
	}
	if _, err := c.Deliverer.Restore(c.ctx, 4, 5); err != nil {
		c.Fatalf("restore: %v", err)
	}
	c.wantRead(previous)
}

func (c *deliveryCase) olderEpochIsFenced() {
	m := c.ca.Material(c, 4)
	c.publish(m, "")
	for _, expected := range []string{"", m.Fingerprint} {
		_, err := c.Another().Publish(c.ctx, c.ca.Material(c, 3), expected)
		c.wantKind(err, activities.Fenced)
	}
	c.wantRead(m)
	c.wantVisible(c.observe(), m, 4)
}

func (c *deliveryCase) usedEpochIsFenced() {
	m := c.ca.Material(c, 4)
	c.publish(m, "")
	_, err := c.Deliverer.Publish(c.ctx, c.ca.Material(c, 4), m.Fingerprint)
	c.wantKind(err, activities.Fenced)
	c.wantRead(m)
}

func (c *deliveryCase) foreignIsConflict() {
	m, foreign := c.ca.Material(c, 3), c.ca.Material(c, 99)
	c.publish(m, "")
	c.foreign(foreign)
	_, err := c.Deliverer.Publish(c.ctx, c.ca.Material(c, 4), m.Fingerprint)
	c.wantKind(err, activities.Conflict)
	c.wantRead(foreign)
	_, err = c.Deliverer.Publish(c.ctx, c.ca.Material(c, 4), "")
	c.wantKind(err, activities.Conflict)
	c.wantRead(foreign)
}

func (c *deliveryCase) foreign(m deliver.Material) {
	c.Helper()
	if err := c.Foreign(m.Chain, m.Key); err != nil {
		c.Fatalf("write as somebody else: %v", err)
	}
}

func (c *deliveryCase) foreignIsObserved() {
	m, foreign := c.ca.Material(c, 3), c.ca.Material(c, 99)
	c.foreign(foreign)
	if seen := c.observe(); !seen.Foreign || seen.Fingerprint != foreign.Fingerprint || seen.Epoch != 0 {
		c.Errorf("before castellan wrote: foreign %v, fingerprint %q, epoch %d; want true, %q, 0", seen.Foreign, seen.Fingerprint, seen.Epoch, foreign.Fingerprint)
	}
	c.publish(m, foreign.Fingerprint)
	if seen := c.observe(); seen.Foreign {
		c.Errorf("castellan's own publication is observed as foreign")
	}
	c.foreign(foreign)
	if seen := c.observe(); !seen.Foreign || seen.Epoch != 3 {
		c.Errorf("after a foreign write: foreign %v, epoch %d; want true, 3", seen.Foreign, seen.Epoch)
	}
}

func (c *deliveryCase) adoption() {
	foreign, m := c.ca.Material(c, 99), c.ca.Material(c, 1)
	c.foreign(foreign)
	_, err := c.Deliverer.Publish(c.ctx, m, "")
	c.wantKind(err, activities.Conflict)
	c.wantRead(foreign)
	c.wantVisible(c.publish(m, foreign.Fingerprint), m, 1)
	c.wantRead(m)
	if _, err := c.Deliverer.Restore(c.ctx, 1, 2); err != nil {
		c.Fatalf("restore what was adopted: %v", err)
	}
	c.wantRead(foreign)
}

func (c *deliveryCase) restore() {
	previous, m := c.ca.Material(c, 3), c.ca.Material(c, 4)
	c.publish(previous, "")
	c.publish(m, previous.Fingerprint)
	for _, deliverer := range []deliver.Deliverer{c.Deliverer, c.Another()} { // the second after a lost reply
		seen, err := deliverer.Restore(c.ctx, 4, 5)
		if err != nil {
			c.Fatalf("restore: %v", err)
		}
		c.wantVisible(seen, previous, 5)
		c.wantRead(previous)
	}
	c.wantVisible(c.observe(), previous, 5)
	next := c.ca.Material(c, 6)
	c.publish(next, previous.Fingerprint)
	c.wantRead(next)
}

func (c *deliveryCase) restoreNothing() {
	m := c.ca.Material(c, 3)
	c.publish(m, "")
	for range 2 {
		_, err := c.Deliverer.Restore(c.ctx, 3, 4)
		c.wantKind(err, activities.NotFound)
	}
	c.wantRead(m)
}

func (c *deliveryCase) publicationAfterRestore() {
	previous, m := c.ca.Material(c, 3), c.ca.Material(c, 4)
	c.publish(previous, "")
	c.publish(m, previous.Fingerprint)
	if _, err := c.Deliverer.Restore(c.ctx, 4, 5); err != nil {
		c.Fatalf("restore: %v", err)
	}
	_, err := c.Another().Publish(c.ctx, m, previous.Fingerprint)
	c.wantKind(err, activities.Fenced)
	c.wantRead(previous)
}

func (c *deliveryCase) lateRestore() {
	previous, m, next := c.ca.Material(c, 3), c.ca.Material(c, 4), c.ca.Material(c, 6)
	c.publish(previous, "")
	c.publish(m, previous.Fingerprint)
	c.publish(next, m.Fingerprint)
	_, err := c.Another().Restore(c.ctx, 4, 5)
	c.wantKind(err, activities.Fenced)
	_, err = c.Another().Restore(c.ctx, 4, 6)
	c.wantKind(err, activities.Fenced)
	c.wantRead(next)
}

func (c *deliveryCase) restoreForeign() {
	previous, m, foreign := c.ca.Material(c, 3), c.ca.Material(c, 4), c.ca.Material(c, 99)
	c.publish(previous, "")
	c.publish(m, previous.Fingerprint)
	c.foreign(foreign)
	_, err := c.Deliverer.Restore(c.ctx, 4, 5)
	c.wantKind(err, activities.Conflict)
	c.wantRead(foreign)
}

func (c *deliveryCase) retire() {
	previous, m := c.ca.Material(c, 3), c.ca.Material(c, 4)
	c.publish(previous, "")
	c.publish(m, previous.Fingerprint)
	if c.Kept != nil && !c.holdsKey(previous.Key) {
		c.Errorf("before it is retired, the previous key is not kept: the search would find nothing")
	}
	for range 2 {
		if err := c.Another().Retire(c.ctx, 4); err != nil {
			c.Fatalf("retire: %v", err)
		}
	}
	c.wantRead(m)
	c.wantVisible(c.observe(), m, 4)
	if c.Kept != nil && c.holdsKey(previous.Key) {
		c.Errorf("the previous key is still there after it was retired")
	}
	_, err := c.Deliverer.Restore(c.ctx, 4, 5)
	c.wantKind(err, activities.NotFound)
	c.wantRead(m)
}

func (c *deliveryCase) retireOlder() {
	first, second, third := c.ca.Material(c, 3), c.ca.Material(c, 4), c.ca.Material(c, 5)
	c.publish(first, "")
	c.publish(second, first.Fingerprint)
	c.publish(third, second.Fingerprint)
	if err := c.Deliverer.Retire(c.ctx, 4); err != nil {
		c.Fatalf("retire: %v", err)
	}
	if _, err := c.Deliverer.Restore(c.ctx, 5, 6); err != nil {
		c.Fatalf("restore: %v", err)
	}
	c.wantRead(second)
}

// readers is the promise that makes a delivery usable while it changes.
func (c *deliveryCase) readers() {
	first := c.ca.Material(c, 1)
	c.publish(first, "")
	stop := make(chan struct{})
	var reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				chain, key, err := c.Read()
				if err != nil {
					continue // the target was busy; the next reading succeeds
				}
				if _, err := tls.X509KeyPair(chain, key); err != nil {
					c.Errorf("a reader saw a pair that does not fit: %v", err)
					return
				}
			}
		})
	}
	previous := first
	for epoch := activities.Epoch(2); epoch <= 25; epoch++ {
		next := c.ca.Material(c, epoch)
		c.publish(next, previous.Fingerprint)
		previous = next
	}
	close(stop)
	reading.Wait()
	c.wantRead(previous)
}

func (c *deliveryCase) writers() {
	const newest = activities.Epoch(6)
	materials := map[activities.Epoch]deliver.Material{}
	for epoch := activities.Epoch(1); epoch <= newest; epoch++ {
		materials[epoch] = c.ca.Material(c, epoch)
	}
	var writing sync.WaitGroup
	for _, m := range materials {
		deliverer := c.Another()
		writing.Go(func() {
			for c.ctx.Err() == nil {
				seen, err := deliverer.Observe(c.ctx)
				if err == nil {
					_, err = deliverer.Publish(c.ctx, m, seen.Fingerprint)
				}
				switch {
				case err == nil, activities.KindOf(err) == activities.Fenced:
					return
				case activities.KindOf(err) == activities.Conflict, activities.KindOf(err) == activities.Transient:
				default:
					c.Errorf("publish epoch %d: %v", m.Epoch, err)
					return
				}
			}
		})
	}
	writing.Wait()
	c.wantRead(materials[newest])
	c.wantVisible(c.observe(), materials[newest], newest)
}

func (c *deliveryCase) badMaterial() {
	good := c.ca.Material(c, 1)
	c.publish(good, "")
	other := c.ca.Material(c, 2)
	for name, spoil := range map[string]func(*deliver.Material){
		"the key belongs to another certificate": func(m *deliver.Material) { m.Key = other.Key },
		"the fingerprint is of another leaf":     func(m *deliver.Material) { m.Fingerprint = other.Fingerprint },
		"the chain is empty":                     func(m *deliver.Material) { m.Chain = nil },
		"the key is empty":                       func(m *deliver.Material) { m.Key = nil },
		"the epoch is zero":                      func(m *deliver.Material) { m.Epoch = 0 },
	} {
		m := c.ca.Material(c, 3)
		spoil(&m)
		_, err := c.Deliverer.Publish(c.ctx, m, good.Fingerprint)
		if got := activities.KindOf(err); err == nil || got != activities.Invalid {
			c.Errorf("%s: got %v (kind %q), want kind %q", name, err, got, activities.Invalid)
			continue
		}
		c.wantNoKey("the error when "+name, err.Error(), m.Key, other.Key)
	}
	c.wantRead(good)
	c.publish(other, good.Fingerprint)
}

func (c *deliveryCase) brokenTarget() {
	if c.Break == nil {
		return // this kind of target cannot be broken from outside
	}
	previous, m := c.ca.Material(c, 3), c.ca.Material(c, 4)
	c.publish(previous, "")
	mend := c.Break()
	_, err := c.Deliverer.Publish(c.ctx, m, previous.Fingerprint)
	if err == nil {
		mend()
		c.Fatalf("publishing to a broken target succeeded")
	}
	c.wantNoKey("the error of a broken target", err.Error(), previous.Key, m.Key)
	mend()
	c.publish(m, previous.Fingerprint)
	c.wantRead(m)
	if _, err := c.Deliverer.Restore(c.ctx, 4, 5); err != nil {
		c.Fatalf("restore after a broken publication was repeated: %v", err)
	}
	c.wantRead(previous)
}

func (c *deliveryCase) cancelled() {
	previous := c.ca.Material(c, 3)
	c.publish(previous, "")
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	if _, err := c.Deliverer.Publish(ctx, c.ca.Material(c, 4), previous.Fingerprint); err == nil {
		c.Errorf("a cancelled publication succeeded")
	}
	c.wantRead(previous)
}

// fingerprintOfPEM returns the SHA-256 of the first certificate in a PEM text, or nothing.
func fingerprintOfPEM(text []byte) string {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return ""
		}
		if block.Type == "CERTIFICATE" {
			sum := sha256.Sum256(block.Bytes)
			return hex.EncodeToString(sum[:])
		}
	}
}
