package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
)

// newCheck is `cleversocks check`.
func newCheck(ctx context.Context, a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [flags]",
		Short: "Validates the settings and prints those in force, secrets masked",
		Long: `Reads the settings as the daemon would, from the file, the environment and
flags, tries on this machine what they ask for (log files, addresses, interfaces,
capabilities), and prints those in force as TOML, which it takes as well: as
--config - from a pipe, for one. Secrets are masked unless --show-secrets is
given; a mask that is loaded is a secret that nobody knows.

Problems go to standard error, all of them, each with file and line. Exit status:
0 the daemon would start, 2 it would not.`,
		Example: `  cleversocks check --config /etc/cleversocks/cleversocks.toml
  cleversocks check --config cleversocks.toml > /dev/null && echo good
  cleversocks check -i 0.0.0.0 -u alice --password-file password > new.toml
  cleversocks check --config cleversocks.toml | cleversocks check --config -`,
		Args: noArguments,
	}
	reveal := cmd.Flags().Bool("show-secrets", false, "Prints passwords and hashes as they are.")
	sources := a.addConfigFlags(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := sources().Load(ctx)
		if err != nil {
			return err
		}
		if err := supervisor.Verify(ctx, cfg); err != nil {
			return err
		}
		for _, w := range supervisor.Warnings(ctx, cfg) {
			if _, err := fmt.Fprintf(a.stderr, "cleversocks: warning: %s\n", w); err != nil {
				return err
			}
		}
		return cfg.WriteTOML(a.stdout, supervisor.InForce(cfg), config.Show(*reveal))
	}
	return cmd
}
