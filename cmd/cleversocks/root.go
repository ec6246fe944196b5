package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"cleversocks/cmd/cleversocks/golog"
	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// errUsage is wrapped by errors about the command line itself.
var errUsage = errors.New("usage")

// usageError keeps the message and wraps errUsage.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }
func (e usageError) Unwrap() error { return errUsage }

const about = `cleversocks is a SOCKS proxy daemon.

Without arguments it serves SOCKS5 on 127.0.0.1:1080, and metrics and health
on 127.0.0.1:9180. Settings come from the defaults, then the file given by
--config, then the environment (CLEVERSOCKS_LOG__LEVEL=debug), then flags.
"cleversocks init" writes a file to start from, "cleversocks check" tries one.

SIGHUP reads everything again. SIGUSR2 starts the program anew, which takes over
without losing a connection. SIGTERM and SIGINT let connections end; another
one, half a second later or more, ends at once. Exit status: 0 drained,
1 failed while running, 2 configuration or usage.`

const examplesOfRoot = `  cleversocks
  cleversocks --config /etc/cleversocks/cleversocks.toml
  cleversocks -i 0.0.0.0 -p 1081 -u alice --password-file password -1
  cleversocks --config - < cleversocks.toml`

// groupSettings is the heading, in the help, of commands that need no daemon.
const groupSettings = "settings"

// newRoot builds the command line.
func newRoot(ctx context.Context, a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "cleversocks [flags]",
		Short:         "A SOCKS proxy daemon",
		Long:          about,
		SilenceErrors: true,
		SilenceUsage:  true,
		Example:       examplesOfRoot,
		Args:          noArguments,
	}
	root.SetContext(ctx)
	successor := a.successor()
	sources := a.addConfigFlags(root)
	// Not root.Version: a template of its own would have the linker keep every
	// method of every type, which is a third of the program.
	version := root.Flags().BoolP("version", "V", false, "Prints the version and exits")
	root.RunE = func(*cobra.Command, []string) error {
		if *version {
			_, err := fmt.Fprintln(a.stdout, buildVersion())
			return err
		}
		return a.daemon(ctx, sources(), successor)
	}
	root.InitDefaultHelpFlag() // behind -V
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd != root {
			a.releaseSignals()
		}
		return fileNamed(cmd)
	}
	root.SetFlagErrorFunc(flagError)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.AddGroup(&cobra.Group{ID: groupSettings, Title: "Settings and rules:"}, &cobra.Group{ID: groupDaemon, Title: "To a running daemon:"})
	for _, cmd := range []*cobra.Command{newInit(a), newCheck(ctx, a), newHash(a), newExplain(ctx, a), newTest(ctx, a), newLearn(ctx, a)} {
		cmd.GroupID = groupSettings
		root.AddCommand(cmd)
	}
	root.AddCommand(commandsToDaemon(ctx, a)...)
	health := newHealthcheck(ctx, a)
	health.GroupID = groupDaemon
	root.AddCommand(health, newVersion(a), newCompletion(a))
	a.setHelp(root)
	unquote(root)
	if len(a.args) > 1 && strings.HasPrefix(a.args[1], cobra.ShellCompRequestCmd) {
		a.setCompletion(ctx, root)
	}
	return root
}

// addConfigFlags adds the flags of all settings to a command. The function
// that it returns gives the sources once flags are parsed; it takes secrets
// out of the process's environment, so that what reads that later finds none,
// as far as the system lets us: see unsetSecret.
func (a *app) addConfigFlags(cmd *cobra.Command) func() *config.Loader {
	fs := cmd.Flags()
	file := fs.String("config", "", "Reads settings from the TOML `FILE`; - is standard input. SIGHUP reads it again, unless it is a pipe.")
	config.RegisterFlags(fs, argv(a.args).wipe)
	return func() *config.Loader {
		given := config.Sources{File: *file, FileGiven: fs.Changed("config"), Stdin: a.stdin, Flags: fs, Environ: a.environ}
		if p := a.inherited.From(); p != nil {
			given.Piped, given.Filled = p.Hello.Config, p.Hello.Filled
		}
		loader := config.NewLoader(given)
		for _, name := range config.SecretEnv(a.environ) {
			// The name is not empty and has no "=": this can't fail.
			_ = a.unsetenv(name)
		}
		return loader
	}
}

// loader reads the settings of a command that takes no flags for each of them:
// those in a file, "" for none, and in the environment, but for what flags say
// otherwise.
func (a *app) loader(file string, flags ...config.Override) *config.Loader {
	if file == config.Stdin {
		a.stdinIsConfig = true
	}
	return config.NewLoader(config.Sources{File: file, Stdin: a.stdin, Environ: a.environ, Overrides: flags})
}

// input is standard input for what a command asks for, unless the settings come
// from there.
func (a *app) input(what string) (*os.File, error) {
	if a.stdinIsConfig {
		return nil, usageError{"standard input is the configuration (--config -), and cannot be " + what + " as well: name a file"}
	}
	return a.stdin, nil
}

// daemon runs the proxy until it has drained.
func (a *app) daemon(ctx context.Context, loader *config.Loader, successor upgrade.Program) error {
	inherited, err := a.inheritance()
	if err != nil {
		return err
	}
	successor.Config, successor.Filled = loader.Piped, loader.Filled
	// Go ends a process that writes to a standard error which nobody reads any
	// more. The sink counts such lines as lost, and the daemon lives on.
	signal.Ignore(syscall.SIGPIPE)
	logs := newLogs(ctx, a.stderr, a.environ)
	defer logs.Close()
	defer golog.To(ctx, logs.Logger())()
	return a.serve(ctx, supervisor.Options{
		Load:       func() (*config.Config, error) { return loader.Load(ctx) },
		LoadText:   func(text []byte) (*config.Config, error) { return loader.LoadText(ctx, text) },
		Logger:     logs.Logger(),
		Access:     logs.Access(),
		PrepareLog: logs.Prepare,
		LostLog:    logs.Lost,
		Level:      logs.Level,
		SetLevel:   logs.SetLevel,
		Version:    buildVersion().Version,
		Commit:     buildVersion().Commit,
		Inherited:  inherited,
		Signals:    a.signals,
		Program:    successor,
	})
}

// fileNamed refuses --config with nothing behind it, as from a variable that is
// not set: a command would ask somebody else than was meant.
func fileNamed(cmd *cobra.Command) error {
	if f := cmd.Flag("config"); f != nil && f.Changed && f.Value.String() == "" {
		return usageError{"flag --config: is empty: name a file, or leave the flag out"}
	}
	return nil
}

// noArguments refuses what is neither a flag nor a command. With -P the
// argument is not repeated: it may be the rest of an unquoted password.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.Flags().Changed("password") {
		return usageError{"an argument is left over behind the flags (not shown, as it may be part of the password): quote the password"}
	}
	return unknownCommand(cmd, args[0])
}
