package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cleversocks/examples"
	"cleversocks/supervisor"
	settings "cleversocks/supervisor/config"
)

// situations are what init knows, in the order of its help.
var situations = []struct{ name, about string }{
	{"me", "for the programs on this machine"},
	{"friends", "on the open internet, for people with a password"},
	{"company", "egress of a company: allowed destinations, no passwords inside"},
	{"sandbox", "for programs that nobody trusts: everything denied but a few names"},
}

// situationNames are the words for them.
func situationNames() []string {
	var names []string
	for _, s := range situations {
		names = append(names, s.name)
	}
	return names
}

// usersInExample is the path that the examples have for the users file.
const usersInExample = "/etc/cleversocks/users"

// newInit is `cleversocks init`.
func newInit(a *app) *cobra.Command {
	var long strings.Builder
	long.WriteString("Writes a commented configuration to start from, and says how to start it. The\nsituations are:\n\n")
	var names []string
	for _, s := range situations {
		fmt.Fprintf(&long, "  %-8s  %s\n", s.name, s.about)
		names = append(names, s.name)
	}
	long.WriteString("\nA file that is there is never overwritten. For friends a users file with one\nuser is written beside it; the password is printed once. With --stdout nothing is\nwritten but the configuration, to standard output.")
	cmd := &cobra.Command{
		Use:       "init SITUATION",
		Short:     "Writes a configuration to start from",
		Long:      long.String(),
		Example:   "  cleversocks init me --output me.toml\n  cleversocks init sandbox --stdout | cleversocks check --config -",
		ValidArgs: names,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{"name one situation: " + strings.Join(names, ", ")}
			}
			return nil
		},
	}
	output := cmd.Flags().StringP("output", "o", "cleversocks.toml", "Writes to `FILE`.")
	stdout := cmd.Flags().Bool("stdout", false, "Writes to standard output, and no users file.")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		text, err := situation(args[0])
		if err != nil {
			return err
		}
		if *stdout || *output == "-" {
			_, err := io.WriteString(a.stdout, text)
			return err
		}
		return a.initialise(text, *output)
	}
	return cmd
}

// schemaFile is where packages put the schema of the settings.
const schemaFile = "/usr/share/cleversocks/cleversocks.schema.json"

// situation is the configuration for one, with a line that tells editors of the
// schema, if that is where packages put it.
func situation(name string) (string, error) {
	if !slices.Contains(situationNames(), name) {
		return "", usageError{fmt.Sprintf("unknown situation %q%s", name, settings.DidYouMean(name, situationNames()))}
	}
	raw, err := examples.Files.ReadFile(name + ".toml")
	if err != nil {
		return "", err
	}
	text := string(raw)
	if hint, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(hint, "#:schema ") {
		text = rest
		if _, err := os.Stat(schemaFile); err == nil {
			text = "#:schema " + schemaFile + "\n" + rest
		}
	}
	return text, nil
}

// initialise writes a configuration and what it needs.
func (a *app) initialise(config, output string) error {
	output, err := filepath.Abs(output)
	if err != nil {
		return err
	}
	users := filepath.Join(filepath.Dir(output), "users")
	needsUsers := strings.Contains(config, usersInExample)
	if needsUsers {
		config = strings.ReplaceAll(config, usersInExample, users)
	}
	if err := writeNew(output, config); err != nil {
		return err
	}
	if needsUsers {
		if err := a.addFirstUser(users); err != nil {
			return errors.Join(err, os.Remove(output))
		}
	}
	_, err = fmt.Fprintf(a.stdout, "Wrote %s. Read it, then:\n  cleversocks check --config %s\n  cleversocks --config %s\n", output, output, output)
	return err
}

// addFirstUser writes a users file with one user, and prints the password,
// which nothing keeps.
func (a *app) addFirstUser(path string) error {
	password := rand.Text()
	if err := writeNew(path, "friend:"+supervisor.Hash([]byte(password))+"\n"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "Wrote %s with the user friend, password %s (it is not shown again).\n", path, password)
	return err
}

// writeNew writes a file that is not there yet, for its owner alone.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator names the file
	if errors.Is(err, fs.ErrExist) {
		return usageError{path + " is there already and stays as it is: choose another with --output"}
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
