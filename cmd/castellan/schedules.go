package main

import (
	"strings"

	"github.com/spf13/cobra"

	"castellan.dev/internal/api"
)

func schedulesCommand(f *flags) *cobra.Command {
	parent := &cobra.Command{
		Use: "schedules", Aliases: []string{"schedule"},
		Short: "Compare and reconcile Temporal's schedules with what is declared",
		Example: `  castellan schedules diff
  castellan schedules apply`,
	}
	var code bool
	diff := &cobra.Command{
		Use:   "diff",
		Short: "Show what apply would change, and why",
		Example: `  castellan schedules diff
  castellan schedules diff --exit-code    exit 1 when something differs`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			found, err := client.ScheduleDiff(cmd.Context())
			if err := f.schedules(cmd, found, err); err != nil {
				return err
			}
			if code && !found.Plan.Empty() {
				return answerError{"schedules differ from what is declared"}
			}
			return nil
		},
	}
	diff.Flags().BoolVar(&code, "exit-code", false, "exit 1 when something differs")
	apply := &cobra.Command{
		Use:     "apply",
		Short:   "Make the schedules what is declared; one that a person paused stays paused",
		Example: `  castellan schedules apply`,
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			found, err := client.ScheduleApply(cmd.Context())
			return f.schedules(cmd, found, err)
		},
	}
	parent.AddCommand(diff, apply)
	return group(parent)
}

func (f *flags) schedules(cmd *cobra.Command, found api.Schedules, err error) error {
	if err != nil {
		return explained(err)
	}
	p := f.printer(cmd)
	if p.json {
		return p.value(found)
	}
	for line := range strings.Lines(found.Text) {
		p.line(cell{strings.TrimSuffix(line, "\n"), diffStyle(line)})
	}
	return nil
}

func diffStyle(line string) style {
	switch line[0] {
	case '+':
		return green
	case '-', '!':
		return red
	case '~':
		return yellow
	}
	return plain
}
