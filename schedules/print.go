package schedules

import (
	"fmt"
	"io"
	"strings"
)

// Write prints the plan as `castellan schedules diff` shows it: one paragraph per schedule, with the
// reason for everything that would change.
func (p Plan) Write(w io.Writer) error {
	var text strings.Builder
	count := map[Op]int{}
	for _, step := range p.Steps {
		count[step.Op]++
		fmt.Fprintf(&text, "%s %s: %s\n", mark(step.Op), step.ID, step.Sentence)
		for _, change := range step.Changes {
			fmt.Fprintf(&text, "    %s: %s\n", change.Field, arrow(change))
			if change.Reason != "" {
				fmt.Fprintf(&text, "        %s\n", change.Reason)
			}
		}
	}
	fmt.Fprintf(&text, "%d to create, %d to update, %d to resume, %d to delete, %d as declared, %d left alone\n",
		count[Create], count[Update], count[Resume], count[Delete], count[Keep], count[Leave])
	_, err := io.WriteString(w, text.String())
	return err
}

// mark returns the sign that begins a step's line.
func mark(op Op) string {
	switch op {
	case Create:
		return "+"
	case Update, Resume:
		return "~"
	case Delete:
		return "-"
	case Leave:
		return "!"
	}
	return "="
}

// arrow writes a change.
func arrow(c Change) string {
	if c.From == "" {
		return c.To
	}
	if c.To == "" {
		return c.From + " -> nothing"
	}
	return c.From + " -> " + c.To
}
