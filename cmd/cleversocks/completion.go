package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cleversocks/cmd/cleversocks/top"
	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
)

// shells are those that a completion script can be had for.
var shells = map[string]func(root *cobra.Command, w io.Writer) error{
	"bash":       func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
	"zsh":        func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) },
	"fish":       func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	"powershell": func(root *cobra.Command, w io.Writer) error { return root.GenPowerShellCompletionWithDesc(w) },
}

// newCompletion is `cleversocks completion`.
func newCompletion(a *app) *cobra.Command {
	names := []string{"bash", "fish", "powershell", "zsh"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Prints what has a shell complete commands, flags and their values",
		Long: `Prints the completion script for bash, fish, powershell or zsh. Packages install
it; without one, put it where the shell looks, or load it when the shell starts,
by source <(cleversocks completion bash) for one.
Names of users, listeners, sessions and upstreams are the running daemon's, or
those of the file that --config names. bash needs the package bash-completion.`,
		Example: `  cleversocks completion bash > /etc/bash_completion.d/cleversocks
  cleversocks completion zsh > /usr/local/share/zsh/site-functions/_cleversocks
  cleversocks completion fish > /etc/fish/completions/cleversocks.fish`,
		ValidArgs: names,
		Args:      exactly(1, 1, "one shell: "+strings.Join(names, ", ")),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := shells[args[0]]
			if !ok {
				return usageError{fmt.Sprintf("no shell %q is known: name one of %s%s", args[0], strings.Join(names, ", "), config.DidYouMean(args[0], names))}
			}
			return write(cmd.Root(), a.stdout)
		},
	}
}

// completer gives the values that a flag or an argument may have. args are the
// arguments before it.
type completer func(ctx context.Context, q *client, args []string) []string

// askedFor bounds the wait for a daemon behind a press of the tab key.
const askedFor = 2 * time.Second

// setCompletion has the values of all flags and arguments completed. Where
// nothing is known, nothing is offered: the names of files are no values of
// --port. Only a shell that asks needs it.
func (a *app) setCompletion(ctx context.Context, root *cobra.Command) {
	arguments := map[string]completer{
		"init": fixed(situationNames()...), "log": fixed("error", "warn", "info", "debug", "trace"), "dns": names, "dns flush": names,
		"kill": sessions, "user passwd": users, "user set": users, "user expire": users, "user show": users,
		"user disable": users, "user enable": users, "user remove": users, "user reset": users, "bans lift": bans, "whitelist remove": whitelisted,
		"upstreams drain": upstreams, "upstreams undrain": upstreams,
	}
	seen := make(map[*pflag.Flag]bool) // a command has those of the ones above it, too
	for _, cmd := range everyCommand(root) {
		path := strings.TrimPrefix(cmd.CommandPath(), "cleversocks ")
		for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
			flags.VisitAll(func(f *pflag.Flag) {
				if !seen[f] {
					a.completeFlag(ctx, cmd, f)
				}
				seen[f] = true
			})
		}
		complete, ok := arguments[path]
		switch {
		case ok:
			cmd.ValidArgs = nil
			cmd.ValidArgsFunction = a.function(ctx, complete)
		case cmd.ValidArgsFunction == nil && cmd.ValidArgs == nil && !slices.Contains([]string{"learn", "test rules", "user import"}, path): // the others take files
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
	}
}

// everyCommand is a command and all below it.
func everyCommand(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		all = append(all, everyCommand(sub)...)
	}
	return all
}

// completeFlag has a flag's value completed.
func (a *app) completeFlag(ctx context.Context, cmd *cobra.Command, f *pflag.Flag) {
	values := map[string]completer{
		"user": users, "as": users, "listener": listeners, "groups": groups, "listen": addresses, "bind": addresses,
		"sort": fixed("age", "bytes", "rate"), "command": fixed("connect", "udp", "bind"),
		"existing": fixed("refuse", "keep", "change"),
		"type":     fixed("opened", "closed", "denied", "banned", "reloaded"),
		"unset":    fixed("groups", "from", "max_connections", "max_addresses", "bandwidth", "quota", "valid_from", "valid_until", "hours", "egress", "note"),
	}
	var err error
	argument := argumentOf(f)
	choices := config.FlagChoices(f.Name)
	switch complete, known := values[f.Name]; {
	case f.Name == "config":
		err = cmd.MarkFlagFilename(f.Name, "toml")
		if cmd.PersistentFlags().Lookup(f.Name) != nil {
			err = cmd.MarkPersistentFlagFilename(f.Name, "toml")
		}
	case argument == "FILE" || argument == "LOG":
		return // the shell's own way
	case len(choices) > 0:
		err = cmd.RegisterFlagCompletionFunc(f.Name, a.function(ctx, fixed(choices...)))
	case known:
		err = cmd.RegisterFlagCompletionFunc(f.Name, a.function(ctx, complete))
	default:
		err = cmd.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
	}
	if err != nil { // a flag that is not there, or is registered twice
		panic(err)
	}
}

// function is a completer as cobra calls it.
func (a *app) function(ctx context.Context, complete completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		asking, cancel := context.WithTimeout(ctx, askedFor)
		defer cancel()
		text := func(name string) string {
			if f := cmd.Flag(name); f != nil {
				return f.Value.String()
			}
			return ""
		}
		q := &client{app: a, file: text("config"), admin: text("admin"), token: text("token-file")}
		if q.file == "-" { // which is the daemon's to read
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return startingWith(start, complete(asking, q, args)), cobra.ShellCompDirectiveNoFileComp
	}
}

// startingWith are those of the values that begin with what was typed.
func startingWith(start string, values []string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return !strings.HasPrefix(v, start) })
}

// described is a value with words for a person beside it.
func described(value, about string) string {
	return printable(value) + "\t" + printable(about)
}

func fixed(values ...string) completer {
	return func(context.Context, *client, []string) []string { return values }
}

// settings are those of --config, or nil.
func (c *client) settings(ctx context.Context) *config.Config {
	if c.file == "" {
		return nil
	}
	cfg, err := c.app.loader(c.file).Load(ctx)
	if err != nil {
		return nil
	}
	return cfg
}

// users are the running daemon's, or else those in the settings.
func users(ctx context.Context, c *client, _ []string) (list []string) {
	var all []admin.User
	if c.fetch(ctx, "/api/v1/users", &all) == nil {
		for i := range all {
			list = append(list, described(all[i].Name, fmt.Sprintf("%s, %d connections", stateWords(all[i].State), all[i].Connections)))
		}
		return list
	}
	if cfg := c.settings(ctx); cfg != nil {
		return cfg.UserNames()
	}
	return nil
}

// groups are those in the settings, or of the running daemon's users.
func groups(ctx context.Context, c *client, _ []string) (list []string) {
	var all []admin.User
	if c.fetch(ctx, "/api/v1/users", &all) == nil {
		for i := range all {
			list = append(list, all[i].Groups...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// listeners are those in the settings, or else the running daemon's.
func listeners(ctx context.Context, c *client, _ []string) (list []string) {
	if cfg := c.settings(ctx); cfg != nil {
		for i := range cfg.Listeners {
			list = append(list, described(cfg.Listeners[i].Called(), cfg.Listeners[i].Address.String()))
		}
		return list
	}
	var s admin.Status
	_ = c.fetch(ctx, "/api/v1/status", &s) // then there is nothing to offer
	return s.Listeners
}

// mostOffered bounds the sessions and names that a shell is given.
const mostOffered = 200

func sessions(ctx context.Context, c *client, _ []string) (list []string) {
	page, _ := c.sessionsFor(ctx, "rate", top.Filter{}, mostOffered) // else there is nothing to offer
	for _, s := range page.Sessions {
		list = append(list, described(s.ID, cmp.Or(s.User, s.Client)+" to "+cmp.Or(s.Target, "nowhere yet")))
	}
	return list
}

func bans(ctx context.Context, c *client, _ []string) (list []string) {
	var all []admin.Ban
	_ = c.fetch(ctx, "/api/v1/bans", &all) // else there is nothing to offer
	for _, b := range all {
		list = append(list, described(b.Source, "until "+b.Until.Local().Format(time.DateTime)))
	}
	return list
}

func whitelisted(ctx context.Context, c *client, _ []string) (list []string) {
	var all []admin.WhitelistEntry
	_ = c.fetch(ctx, "/api/v1/whitelist", &all) // else there is nothing to offer
	for _, e := range all {
		list = append(list, described(e.Address, e.User))
	}
	return list
}

func names(ctx context.Context, c *client, _ []string) (list []string) {
	var all []admin.CachedName
	_ = c.fetch(ctx, "/api/v1/dns", &all) // else there is nothing to offer
	for _, n := range all[:min(len(all), mostOffered)] {
		list = append(list, printable(n.Name))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// upstreams are the names, and behind one its members.
func upstreams(ctx context.Context, c *client, args []string) (list []string) {
	var all []admin.Upstream
	_ = c.fetch(ctx, "/api/v1/upstreams", &all) // else there is nothing to offer
	for _, u := range all {
		if len(args) == 0 {
			list = append(list, u.Name)
			continue
		}
		for _, m := range u.Members {
			if u.Name == args[0] {
				list = append(list, described(m.Name, stateOf(m)))
			}
		}
	}
	return list
}

// addresses are this machine's, and those that mean all of them.
func addresses(context.Context, *client, []string) []string {
	list := []string{described("0.0.0.0", "all of IPv4"), described("::", "both families")}
	all, _ := net.InterfaceAddrs() // else those two are offered
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			list = append(list, n.IP.String())
		}
	}
	return list
}
