package main

import (
	"github.com/spf13/cobra"

	"cleversocks/supervisor"
)

// newHash is `cleversocks hash`.
func newHash(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "hash",
		Short: "Hashes a password for a users file or password_hash",
		Long: `Asks for a password twice when standard input is a terminal, else reads one
line of it, and prints its argon2id hash. A line of a users file is
"name:hash".`,
		Example: "  cleversocks hash\n  echo \"alice:$(cleversocks hash < password)\" >> users",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			return supervisor.HashPassword(a.stdin, a.stderr, a.stdout)
		},
	}
}
