package main

import (
	"github.com/spf13/cobra"

	"castellan.dev/internal/config"
	"castellan.dev/workers"
)

func configCommand(f *flags) *cobra.Command {
	parent := &cobra.Command{
		Use: "config", Short: "Check the configuration",
		Example: `  castellan config check --config castellan.yaml`,
	}
	parent.AddCommand(&cobra.Command{
		Use:   "check",
		Short: "Print what castellan understands, or every problem with file and line",
		Long: `Reads the configuration strictly. If it is right, prints what castellan understands by it,
defaults included; otherwise prints every problem at once and exits with 2. It needs no
installation and changes nothing.`,
		Example: `  castellan config check --config castellan.yaml
  castellan config check --config castellan.yaml -o json`,
		Args: args(),
		RunE: f.checkConfig,
	})
	return group(parent)
}

// configProblem is one problem for scripts.
type configProblem struct {
	File  string `json:"file"`
	Line  int    `json:"line,omitempty"`
	Field string `json:"field,omitempty"`
	Value string `json:"value,omitempty"`
	Want  string `json:"want"`
}

func (f *flags) checkConfig(cmd *cobra.Command, _ []string) error {
	path := f.config
	if path == "" {
		dir, err := f.dir()
		if err != nil {
			return err
		}
		path = dir.Config()
	}
	cfg, problems := config.Load(path)
	if cfg != nil {
		problems = append(problems, cfg.Check(workers.Catalogue())...)
	}
	p := f.printer(cmd)
	if p.json {
		list := []configProblem{}
		for _, problem := range problems {
			list = append(list, configProblem(problem))
		}
		if err := p.value(map[string]any{"file": path, "problems": list}); err != nil {
			return err
		}
	}
	if err := problems.Err(); err != nil {
		return usage(err)
	}
	if p.json {
		return nil
	}
	return cfg.Explain(p.out)
}
