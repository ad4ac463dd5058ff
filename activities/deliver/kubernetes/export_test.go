package kubernetes

import (
	"context"
	"time"
)

// TestOnlySleep replaces how a reload waits for the end of its window.
func (r *Rollout) TestOnlySleep(sleep func(context.Context, time.Duration) error) { r.sleep = sleep }
