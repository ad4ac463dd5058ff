package ca

import "errors"

// cleanup unwinds a start that failed halfway, last step first.
type cleanup struct{ steps []func() error }

func (c *cleanup) add(step func() error) { c.steps = append(c.steps, step) }

func (c *cleanup) run() error {
	var err error
	for i := len(c.steps) - 1; i >= 0; i-- {
		err = errors.Join(err, c.steps[i]())
	}
	return err
}
