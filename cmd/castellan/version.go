package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"castellan.dev/internal/version"
)

func versionCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  castellan version -o json`,
		Args:    args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			build := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{Version: version.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, setting := range info.Settings {
					if setting.Key == "vcs.revision" {
						build.Revision = setting.Value
					}
				}
			}
			p := f.printer(cmd)
			if p.json {
				return p.value(build)
			}
			p.line(word("castellan"), word(build.Version), word(build.Revision), word(build.Go), word(build.Platform))
			return nil
		},
	}
}
