package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cleversocks/metrics/admin"
	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
)

const aboutUser = `Changes the users in auth.users_file while the daemon runs: the file is replaced
in one piece, everything else in it stays as it is, and the change is in force
when the command returns. No other user notices. Connections of a user who is
removed, disabled or past valid_until end at once, with the cause "revoked".
Users in the configuration itself are for you to edit.`

// newUser is `cleversocks user`, which changes users.
func newUser(ctx context.Context, c *client) *cobra.Command {
	cmd := command("user", "Adds, changes, disables and removes users", aboutUser,
		"  cleversocks user add carol --max-connections 50 --quota 100GiB\n  cleversocks user passwd alice\n  cleversocks user set alice --valid-until 2036-12-31T23:59:59Z\n  cleversocks user disable alice",
		noArguments, func([]string) error {
			return usageError{"user: add, import, passwd, set, expire, reset, disable, enable, remove, show or list"}
		})
	cmd.AddCommand(
		newUserAdd(ctx, c), newUserImport(ctx, c), newUserPasswd(ctx, c), newUserSet(ctx, c), newUserExpire(ctx, c),
		newUserSwitch(ctx, c, "disable", "Lets a user in no more", "Lets the user in no more, whatever the way to log in, and ends the user's\nconnections.", true),
		newUserSwitch(ctx, c, "enable", "Lets a disabled user in again", "Lets a disabled user in again, with the password and the quota of before.", false),
		command("reset NAME...", "Forgets what users have used of their quotas", "Forgets what the users have moved of their quotas, on all replicas of a fleet: a new\nperiod begins.", "  cleversocks user reset carol", oneOrMoreNames, func(names []string) error {
			return each(names, func(name string) error {
				var u admin.User
				return c.ask(ctx, http.MethodDelete, userPath(name)+"/usage", nil, &u, func(w io.Writer) { row(w, name, stateWords(u.State)) })
			})
		}),
		command("remove NAME...", "Takes users out", "Takes users out of the users file, and ends their connections.", "  cleversocks user remove bob", oneOrMoreNames, func(names []string) error {
			return each(names, func(name string) error { return c.changeUser(ctx, http.MethodDelete, name, nil) })
		}),
		command("show NAME", "Shows a user", "Shows a user with limits and usage.", "  cleversocks user show alice", exactly(1, 1, "one name"), func(args []string) error {
			var u admin.User
			return c.ask(ctx, http.MethodGet, userPath(args[0]), nil, &u, func(w io.Writer) { showUser(w, &u) })
		}),
		command("list", "Lists users", "Lists users with their state, connections and what is left of their quotas.", "  cleversocks user list", noArguments, c.listUsers(ctx)),
	)
	return cmd
}

func oneOrMoreNames(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError{"give it one name or more"}
	}
	return nil
}

// each does something for all names; an error ends it.
func each(names []string, do func(name string) error) error {
	for _, name := range names {
		if err := do(name); err != nil {
			return err
		}
	}
	return nil
}

func userPath(name string) string { return "/api/v1/users/" + url.PathEscape(name) }

// changeUser asks for a change of one user and says what came of it.
func (c *client) changeUser(ctx context.Context, method, name string, body any) error {
	path := userPath(name)
	if method == http.MethodPost {
		path = "/api/v1/users"
	}
	var done admin.UserChanged
	return c.ask(ctx, method, path, body, &done, func(w io.Writer) {
		state := "removed"
		if done.User != nil {
			state = stateWords(done.User.State)
		}
		if done.Closed > 0 {
			state += fmt.Sprintf(", %d connections ended", done.Closed)
		}
		row(w, name, state)
	})
}

// hashInput asks for a password and hashes it here, so that the daemon never
// gets it. It comes from the terminal, or else is the first line of standard
// input: never from the command line, where others of the machine could see it.
func (c *client) hashInput() (*string, error) {
	if c.file == config.Stdin {
		c.app.stdinIsConfig = true
	}
	in, err := c.app.input("the password")
	if err != nil {
		return nil, err
	}
	hash, err := supervisor.ReadHash(in, c.app.stderr)
	if err != nil {
		return nil, err
	}
	return &hash, nil
}

func newUserAdd(ctx context.Context, c *client) *cobra.Command {
	var f limitFlags
	var disabled bool
	cmd := command("add NAME", "Adds a user", "Adds a user to the users file. The password is asked for twice when standard\ninput is a terminal, and else is the first line of it.",
		"  cleversocks user add bob --groups staff --up 10MiB/s --down 50MiB/s\n  head -1 password | cleversocks user add dave", exactly(1, 1, "one name"), nil)
	f.add(cmd)
	cmd.Flags().BoolVar(&disabled, "disabled", false, "Adds the user disabled.")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		u := admin.NewUser{Name: args[0]}
		var err error
		if u.UserChange, err = f.change(cmd.Flags()); err != nil {
			return err
		}
		if disabled {
			u.Disabled = &disabled
		}
		if u.PasswordHash, err = c.hashInput(); err != nil {
			return err
		}
		return c.changeUser(ctx, http.MethodPost, args[0], u)
	}
	return cmd
}

func newUserPasswd(ctx context.Context, c *client) *cobra.Command {
	return command("passwd NAME", "Gives a user another password", "Gives a user another password, which is asked for twice when standard input is\na terminal, and else is the first line of it. The old one is worth nothing from\nthen on. Connections that are open stay: see `cleversocks kill --user NAME`.",
		"  cleversocks user passwd alice", exactly(1, 1, "one name"), func(args []string) error {
			hash, err := c.hashInput()
			if err != nil {
				return err
			}
			return c.changeUser(ctx, http.MethodPatch, args[0], admin.UserChange{PasswordHash: hash})
		})
}

func newUserSet(ctx context.Context, c *client) *cobra.Command {
	var f limitFlags
	cmd := command("set NAME", "Sets limits of a user", "Sets limits of a user. Those that are not named stay as they are.",
		"  cleversocks user set alice --hours 'mon-fri 08:00-18:00 Europe/Berlin'\n  cleversocks user set alice --unset hours,from", exactly(1, 1, "one name"), nil)
	f.add(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		change, err := f.change(cmd.Flags())
		if err != nil {
			return err
		}
		if len(change.Unset) == 0 && change.UserLimits == (admin.UserLimits{}) {
			return usageError{"set what? give a limit such as --quota 100GiB, or --unset"}
		}
		return c.changeUser(ctx, http.MethodPatch, args[0], change)
	}
	return cmd
}

func newUserExpire(ctx context.Context, c *client) *cobra.Command {
	at := "now"
	cmd := command("expire NAME", "Sets when a user's time ends", "Sets valid_until of a user. When it has passed, connections end and log-ins are\nrefused.",
		"  cleversocks user expire bob\n  cleversocks user expire bob --at 720h\n  cleversocks user expire bob --at 2036-12-31T23:59:59+01:00", exactly(1, 1, "one name"), nil)
	cmd.Flags().StringVar(&at, "at", at, "At this `TIME`: now, a date and time with its zone, or a duration from now.")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		t, err := moment("--at", at)
		if err != nil {
			return err
		}
		return c.changeUser(ctx, http.MethodPatch, args[0], admin.UserChange{UserLimits: admin.UserLimits{ValidUntil: t}})
	}
	return cmd
}

func newUserSwitch(ctx context.Context, c *client, verb, short, long string, disabled bool) *cobra.Command {
	return command(verb+" NAME...", short, long, "  cleversocks user "+verb+" alice bob", oneOrMoreNames, func(names []string) error {
		return each(names, func(name string) error {
			return c.changeUser(ctx, http.MethodPatch, name, admin.UserChange{Disabled: &disabled})
		})
	})
}

// limitFlags are the limits of a user as flags.
type limitFlags struct {
	groups, from, hours, egress, unset         []string
	connections, addresses                     int
	up, down, quota, period, since, till, note string
}

func (f *limitFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringSliceVar(&f.groups, "groups", nil, "The `GROUPS` that the user is in, for rules.")
	flags.StringSliceVar(&f.from, "from", nil, "The `RANGES` that the user may come from.")
	flags.IntVar(&f.connections, "max-connections", 0, "At most `N` connections at a time; 0: any number.")
	flags.IntVar(&f.addresses, "max-addresses", 0, "From at most `N` addresses at a time; 0: any number.")
	flags.StringVar(&f.up, "up", "", "Bytes a second from the user, such as 10MiB/s, as `RATE`.")
	flags.StringVar(&f.down, "down", "", "Bytes a second to the user, as `RATE`.")
	flags.StringVar(&f.quota, "quota", "", "How much the user may move in a period, as `SIZE`.")
	flags.StringVar(&f.period, "quota-period", "", "How long that period is, as `DURATION`.")
	flags.StringVar(&f.since, "valid-from", "", "From this `TIME` on: now, a date and time with its zone, or a duration from now.")
	flags.StringVar(&f.till, "valid-until", "", "Until this `TIME`.")
	flags.StringArrayVar(&f.hours, "hours", nil, "When in the week, as `HOURS` such as 'mon-fri 08:00-18:00 Europe/Berlin'; may be repeated.")
	flags.StringSliceVar(&f.egress, "egress", nil, "The source `ADDRESSES` of the user's connections.")
	flags.StringVar(&f.note, "note", "", "Your own `WORDS`, for lists.")
	flags.StringSliceVar(&f.unset, "unset", nil, "The `LIMITS` that are to be as if they had never been set, such as quota,hours.")
}

// change is what the flags that were given ask for.
func (f *limitFlags) change(flags *pflag.FlagSet) (c admin.UserChange, err error) {
	for name, take := range map[string]func(){
		"groups": func() { c.Groups = &f.groups }, "from": func() { c.From = &f.from }, "hours": func() { c.Hours = &f.hours },
		"egress": func() { c.Egress = &f.egress }, "note": func() { c.Note = &f.note },
		"max-connections": func() { c.MaxConnections = &f.connections }, "max-addresses": func() { c.MaxAddresses = &f.addresses },
	} {
		if flags.Changed(name) {
			take()
		}
	}
	if f.up != "" || f.down != "" {
		c.Bandwidth = &admin.BandwidthChange{Up: f.up, Down: f.down}
	}
	if f.quota != "" || f.period != "" {
		c.Quota = &admin.QuotaChange{Bytes: f.quota, Period: f.period}
	}
	c.Unset = f.unset
	if c.ValidFrom, err = moment("--valid-from", f.since); err != nil {
		return c, err
	}
	c.ValidUntil, err = moment("--valid-until", f.till)
	return c, err
}

// moment reads "now", a time with its zone, or a duration from now; nil: nothing.
func moment(flag, value string) (*time.Time, error) {
	now := time.Now().UTC().Truncate(time.Second)
	if value == "" {
		return nil, nil //nolint:nilnil // see above
	}
	if value == "now" {
		return &now, nil
	}
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return &t, nil
	}
	if d, err := time.ParseDuration(value); err == nil {
		t := now.Add(d)
		return &t, nil
	}
	return nil, usageError{flag + ": now, a date and time with its zone such as 2026-12-31T23:59:59Z, or a duration such as 720h"}
}

func (c *client) listUsers(ctx context.Context) func([]string) error {
	return func([]string) error {
		var users []admin.User
		return c.ask(ctx, http.MethodGet, "/api/v1/users", nil, &users, func(w io.Writer) {
			row(w, "NAME", "STATE", "GROUPS", "CONNECTIONS", "IN FLEET", "IN", "OUT", "QUOTA USED", "LEFT", "UNTIL")
			for i := range users {
				u := &users[i]
				used, left := "-", "-"
				if u.Quota != nil {
					used, left = size(u.Quota.Used), size(u.Quota.Remaining)
				}
				row(w, u.Name, stateWords(u.State), orDash(strings.Join(u.Groups, ",")), connectionsOf(u), inFleet(u), size(u.BytesIn), size(u.BytesOut), used, left, until(u.ValidUntil))
			}
		})
	}
}

func connectionsOf(u *admin.User) string {
	if u.MaxConnections > 0 {
		return fmt.Sprintf("%d/%d", u.Connections, u.MaxConnections)
	}
	return fmt.Sprint(u.Connections)
}

func stateWords(state string) string { return strings.ReplaceAll(state, "_", " ") }

func until(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

// showUser writes all that is known of a user.
func showUser(w io.Writer, u *admin.User) {
	row(w, "name", u.Name)
	row(w, "state", stateWords(u.State))
	row(w, "connections", connectionsOf(u))
	row(w, "bytes", size(u.BytesIn)+" in, "+size(u.BytesOut)+" out, of those")
	for _, line := range []struct {
		what   string
		values []string
	}{{"groups", u.Groups}, {"from", u.From}, {"hours", u.Hours}, {"egress", u.Egress}} {
		if len(line.values) > 0 {
			row(w, line.what, strings.Join(line.values, ", "))
		}
	}
	if u.MaxAddresses > 0 {
		row(w, "max addresses", u.MaxAddresses)
	}
	if b := u.Bandwidth; b != nil {
		row(w, "bandwidth", size(b.Up)+"/s up, "+size(b.Down)+"/s down (0 B/s: no limit)")
	}
	if q := u.Quota; q != nil {
		row(w, "quota", fmt.Sprintf("%s used of %s, period ends %s", size(q.Used), size(q.Limit), until(q.Until)))
	}
	if u.ValidFrom != nil {
		row(w, "valid from", until(u.ValidFrom))
	}
	if u.ValidUntil != nil {
		row(w, "valid until", until(u.ValidUntil))
	}
	if u.Note != "" {
		row(w, "note", u.Note)
	}
	row(w, "where", u.Where)
}
