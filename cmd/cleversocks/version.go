package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set by the release build: -ldflags "-X main.version=... -X main.commit=...".
var version, commit string

// build tells one build from another.
type build struct{ Version, Commit, Go string }

// buildVersion is what the linker was told, else what Go noted.
func buildVersion() build {
	b := build{Version: version, Commit: commit, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if ok && b.Version == "" {
		b.Version = info.Main.Version
	}
	if ok && b.Commit == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Commit = s.Value
			}
		}
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	if b.Commit == "" {
		b.Commit = "unknown"
	}
	return b
}

// String is the line that -V prints.
func (b build) String() string {
	return fmt.Sprintf("cleversocks %s (commit %s, %s)", b.Version, b.Commit, b.Go)
}

// newVersion is `cleversocks version`.
func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the version, the commit and Go's version",
		Long: `Prints the version, the commit that it was built from, and the version of Go
that built it.`,
		Example: "  cleversocks version",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.stdout, buildVersion())
			return err
		},
	}
}
