package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"cleversocks/supervisor"
)

// newCheck is `cleversocks check`.
func newCheck(ctx context.Context, a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [flags]",
		Short: "Validates the settings and prints those in force, secrets masked",
		Long: `Reads the settings as the daemon would, from the file, the environment and
flags, and prints those in force as TOML. Lines with secrets are masked and
commented out. Problems go to standard error, all of them, and the exit status
is 2.`,
		Args: noArguments,
	}
	sources := a.addConfigFlags(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := sources().Load(ctx)
		if err != nil {
			return err
		}
		if err := supervisor.Verify(ctx, cfg); err != nil {
			return err
		}
		for _, w := range slices.Concat(cfg.Warnings, cfg.Exposed(nil, nil)) {
			if _, err := fmt.Fprintf(a.stderr, "cleversocks: warning: %s\n", w); err != nil {
				return err
			}
		}
		return cfg.WriteTOML(a.stdout, supervisor.InForce(cfg))
	}
	return cmd
}
