package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cleversocks/metrics/admin"
)

// commandsToDaemon are the commands that ask or steer a running daemon, each
// over its API.
func commandsToDaemon(ctx context.Context, a *app) []*cobra.Command {
	var all []*cobra.Command
	for _, make := range []func(context.Context, *client) *cobra.Command{
		newStatus, newTop, newFleet, newSessions, newKill, newUsers, newUser, newBans, newWhitelist, newUpstreams, newDNS, newDenials, newEvents, newReload, newUpgrade, newDrain, newLogLevel,
	} {
		c := &client{app: a}
		cmd := make(ctx, c)
		cmd.GroupID = groupDaemon
		c.addFlags(cmd)
		all = append(all, cmd)
	}
	return all
}

// groupDaemon is their heading in the help.
const groupDaemon = "daemon"

// aboutDaemon ends each help text.
const aboutDaemon = `

It asks the running daemon at its admin endpoint, which needs admin.token_file,
or nothing for the owner of its unix socket. Exit status: 0 done, 1 not,
2 usage.`

// command is a command to the daemon.
func command(use, short, long, example string, args cobra.PositionalArgs, run func(args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long + aboutDaemon, Example: example, Args: args,
		RunE: func(_ *cobra.Command, args []string) error { return run(args) },
	}
}

func newStatus(ctx context.Context, c *client) *cobra.Command {
	return command("status", "Shows a running daemon at a glance", "Shows readiness, load, and the last reload.", "  cleversocks status\n  cleversocks status --json", noArguments, func([]string) error {
		var s admin.Status
		return c.ask(ctx, http.MethodGet, "/api/v1/status", nil, &s, func(w io.Writer) {
			ready := "ready"
			if !s.Ready {
				ready = "not ready: " + s.Reason
			}
			row(w, "state", ready)
			for _, d := range s.Degraded {
				row(w, "degraded", d)
			}
			row(w, "version", s.Version+" ("+s.Commit+")")
			row(w, "process", s.PID)
			for _, p := range s.Predecessors {
				row(w, "predecessor", fmt.Sprintf("process %d drains %d connections", p.PID, p.Connections))
			}
			row(w, "up for", age(time.Since(s.Started)))
			row(w, "connections", fmt.Sprintf("%d of %d, %d accepted", s.Connections, s.Limit, s.Accepted))
			row(w, "from clients", size(s.BytesIn))
			row(w, "to clients", size(s.BytesOut))
			row(w, "memory", size(s.Memory))
			row(w, "log level", s.LogLevel)
			row(w, "listeners", strings.Join(s.Listeners, " "))
			if s.Reload != nil {
				row(w, "last reload", s.Reload.Time.Format(time.DateTime)+": "+outcome(s.Reload))
			}
		})
	})
}

func newFleet(ctx context.Context, c *client) *cobra.Command {
	return command("fleet", "Lists the replicas that share their state", "Lists the replicas that share their state with the daemon, which is marked: each\nwith its name, load, and where it can be asked.", "  cleversocks fleet", noArguments, func([]string) error {
		var f admin.Fleet
		return c.ask(ctx, http.MethodGet, "/api/v1/fleet", nil, &f, func(w io.Writer) {
			if len(f.Replicas) == 0 && f.Replica == "" {
				row(w, "the daemon is alone: shared_state.url is empty")
				return
			}
			row(w, "REPLICA", "ID", "STATE", "CONNECTIONS", "UP FOR", "LAST BEAT", "VERSION", "CONFIGURATION", "ADMIN")
			for _, r := range f.Replicas {
				name, state := r.Name, "serving"
				if r.Self {
					name += " *"
				}
				if r.Draining {
					state = "draining"
				}
				row(w, name, r.ID, state, fmt.Sprintf("%d of %d", r.Connections, r.Limit), age(time.Since(r.Started)), age(time.Since(r.LastBeat)),
					r.Version, r.Generation, orDash(r.Admin))
			}
			if f.Degraded != "" {
				row(w, "degraded: "+f.Degraded)
			}
		})
	})
}

func outcome(r *admin.Reload) string {
	if r.OK {
		return "ok"
	}
	return r.Error
}

func newUsers(ctx context.Context, c *client) *cobra.Command {
	return command("users", "Lists the users of a running daemon", "Lists users with their state, connections and what is left of their quotas.", "  cleversocks users\n  cleversocks users --config /etc/cleversocks/cleversocks.toml", noArguments, c.listUsers(ctx))
}

// inFleet is what a user has on all replicas, and on which.
func inFleet(u *admin.User) string {
	if len(u.Replicas) == 0 {
		return "-"
	}
	where := make([]string, len(u.Replicas))
	for i, r := range u.Replicas {
		where[i] = fmt.Sprintf("%s %d", r.Replica, r.Connections)
	}
	return fmt.Sprintf("%d (%s)", u.FleetConnections, strings.Join(where, ", "))
}

func newBans(ctx context.Context, c *client) *cobra.Command {
	list := func([]string) error {
		var bans []admin.Ban
		return c.ask(ctx, http.MethodGet, "/api/v1/bans", nil, &bans, func(w io.Writer) {
			row(w, "SOURCE", "SINCE", "FOR ANOTHER", "LEVEL", "REPLICA")
			for _, b := range bans {
				row(w, b.Source, b.Since.Format(time.DateTime), age(time.Until(b.Until)), b.Level, orDash(b.Replica))
			}
		})
	}
	cmd := command("bans", "Lists, adds and lifts bans", "Lists the sources that are kept out.", "  cleversocks bans\n  cleversocks bans add 192.0.2.7 --for 10m\n  cleversocks bans lift 192.0.2.7", noArguments, list)
	var length time.Duration
	add := command("add SOURCE", "Keeps a source out", "Bans an address, or the /64 of an IPv6 address, for as long as\nlimits.auth_failures.ban_max allows.", "  cleversocks bans add 192.0.2.7 --for 10m\n  cleversocks bans add 2001:db8:5::1", exactly(1, 1, "one address"), func(args []string) error {
		imposed := admin.Imposition{Source: args[0]}
		if length > 0 {
			imposed.Duration = length.String()
		}
		var b admin.Ban
		return c.ask(ctx, http.MethodPost, "/api/v1/bans", imposed, &b, func(w io.Writer) { row(w, b.Source, "until "+b.Until.Format(time.DateTime)) })
	})
	add.Flags().DurationVar(&length, "for", 0, "For this `DURATION`. (default the longest)")
	lift := command("lift SOURCE", "Ends a ban", "Ends the ban of an address, and forgets its failures.", "  cleversocks bans lift 192.0.2.7", exactly(1, 1, "one address"), func(args []string) error {
		return c.ask(ctx, http.MethodDelete, "/api/v1/bans/"+url.PathEscape(args[0]), nil, nil, nil)
	})
	cmd.AddCommand(add, lift)
	return cmd
}

func newWhitelist(ctx context.Context, c *client) *cobra.Command {
	cmd := command("whitelist", "Lists, adds and removes auth-once addresses", "Lists the addresses that auth-once lets in without a password.", "  cleversocks whitelist\n  cleversocks whitelist add 192.0.2.7 --as alice", noArguments, func([]string) error {
		var list []admin.WhitelistEntry
		return c.ask(ctx, http.MethodGet, "/api/v1/whitelist", nil, &list, func(w io.Writer) {
			row(w, "ADDRESS", "USER", "METHOD", "SINCE", "FOR ANOTHER")
			for _, e := range list {
				row(w, e.Address, e.User, e.Method, e.Since.Format(time.DateTime), age(time.Until(e.Until)))
			}
		})
	})
	var user string
	add := command("add ADDR --as USER", "Lets an address in as a user", "Lets an address in as if the user had logged in from there now.", "  cleversocks whitelist add 192.0.2.7 --as alice", exactly(1, 1, "one address"), func(args []string) error {
		var e admin.WhitelistEntry
		return c.ask(ctx, http.MethodPost, "/api/v1/whitelist", admin.Admission{Address: args[0], User: user}, &e, func(w io.Writer) {
			row(w, e.Address, "as "+e.User, "until "+e.Until.Format(time.DateTime))
		})
	})
	add.Flags().StringVar(&user, "as", "", "The user's `NAME`.")
	remove := command("remove ADDR", "Takes an address out", "Takes an address out; its next connection needs a password.", "  cleversocks whitelist remove 192.0.2.7", exactly(1, 1, "one address"), func(args []string) error {
		return c.ask(ctx, http.MethodDelete, "/api/v1/whitelist/"+url.PathEscape(args[0]), nil, nil, nil)
	})
	cmd.AddCommand(add, remove)
	return cmd
}

func newUpstreams(ctx context.Context, c *client) *cobra.Command {
	cmd := command("upstreams", "Lists upstreams and drains their members", "Lists upstreams, their members and health.", "  cleversocks upstreams\n  cleversocks upstreams drain farm socks5://10.0.0.1:1080", noArguments, func([]string) error {
		var list []admin.Upstream
		return c.ask(ctx, http.MethodGet, "/api/v1/upstreams", nil, &list, func(w io.Writer) {
			row(w, "UPSTREAM", "MEMBER", "STATE", "TUNNELS", "WARM", "HANDSHAKE")
			for _, u := range list {
				for _, m := range u.Members {
					row(w, u.Name, m.Name, stateOf(m), m.Active, m.Warm, fmt.Sprintf("%.1f ms", m.Latency*1000))
				}
			}
		})
	})
	drain := func(drained bool) func([]string) error {
		return func(args []string) error {
			return c.ask(ctx, http.MethodPut, "/api/v1/upstreams/"+url.PathEscape(args[0])+"/drain", admin.MemberDrain{Member: args[1], Drained: drained}, nil, nil)
		}
	}
	two := exactly(2, 2, "an upstream and a member of it, as they are listed")
	cmd.AddCommand(
		command("drain UPSTREAM MEMBER", "Has no new tunnels go through a member", "Has no new tunnels go through a member; those that are open stay.", "  cleversocks upstreams drain farm socks5://10.0.0.1:1080", two, drain(true)),
		command("undrain UPSTREAM MEMBER", "Has tunnels go through a member again", "Has tunnels go through a member again.", "  cleversocks upstreams undrain farm socks5://10.0.0.1:1080", two, drain(false)),
	)
	return cmd
}

func stateOf(m admin.Member) string {
	switch {
	case m.Drained:
		return "drained"
	case m.Up:
		return "up"
	}
	return "down"
}

func newDNS(ctx context.Context, c *client) *cobra.Command {
	cmd := command("dns [NAME]", "Shows and flushes the resolver's cache", "Shows the answers in the resolver's cache, for one name or all.", "  cleversocks dns example.com\n  cleversocks dns flush example.com", exactly(0, 1, "one name or none"), func(args []string) error {
		var list []admin.CachedName
		return c.ask(ctx, http.MethodGet, "/api/v1/dns"+queryOf("name", strings.Join(args, "")), nil, &list, func(w io.Writer) {
			row(w, "NAME", "TYPE", "ANSWER", "FOR ANOTHER", "FROM")
			for _, n := range list {
				answer, left := strings.Join(n.Addresses, " "), age(time.Until(n.Expires))
				if n.Error != "" {
					answer = n.Error
				}
				if n.Stale {
					left = "stale"
				}
				row(w, n.Name, n.Type, answer, left, n.From)
			}
		})
	})
	cmd.AddCommand(command("flush [NAME]", "Drops answers from the resolver's cache", "Drops the answers for one name, or all.", "  cleversocks dns flush example.com\n  cleversocks dns flush", exactly(0, 1, "one name or none"), func(args []string) error {
		if len(args) > 0 && args[0] == "" {
			return usageError{"the name is empty; leave it out if all are meant"}
		}
		var n admin.Flushed
		return c.ask(ctx, http.MethodDelete, "/api/v1/dns"+queryOf("name", strings.Join(args, "")), nil, &n, func(w io.Writer) { row(w, n.Flushed, "dropped") })
	}))
	return cmd
}

func newDenials(ctx context.Context, c *client) *cobra.Command {
	return command("denials", "Shows the latest requests that the rules refused", "Shows the latest refusals, and what acl.report_only let pass, each with the rule\nthat made it and the one that would allow it.", "  cleversocks denials\n  cleversocks denials --json", noArguments, func([]string) error {
		var list []admin.Denial
		return c.ask(ctx, http.MethodGet, "/api/v1/denials", nil, &list, func(w io.Writer) {
			for _, d := range list {
				times := ""
				if d.Count > 1 {
					times = fmt.Sprintf(" (%d times)", d.Count)
				}
				row(w, d.Time.Local().Format(time.DateTime)+"  "+d.Sentence+times)
				for line := range strings.Lines(d.Allow) {
					row(w, "    "+strings.TrimSuffix(line, "\n"))
				}
			}
		})
	})
}

func newReload(ctx context.Context, c *client) *cobra.Command {
	return command("reload", "Has a running daemon read its settings again", "Has the daemon read its settings again, and says what came of it.", "  cleversocks reload\n  cleversocks reload --token-file /etc/cleversocks/token", noArguments, func([]string) error {
		var r admin.Reload
		if err := c.ask(ctx, http.MethodPost, "/api/v1/reload", nil, &r, func(io.Writer) {}); err != nil {
			return err
		}
		if !r.OK {
			return fmt.Errorf("the old configuration stays: %s", printable(r.Error))
		}
		for _, w := range r.Warnings {
			if _, err := fmt.Fprintf(c.app.stderr, "cleversocks: warning: %s\n", printable(w)); err != nil {
				return err
			}
		}
		return nil
	})
}

func newUpgrade(ctx context.Context, c *client) *cobra.Command {
	var pid int
	cmd := command("upgrade", "Has a running daemon start its program anew, without a gap", `Has the daemon start the program that is at its path now, with all of its
sockets. The successor serves when it has verified its settings; connections
that are open go on in the old process. If the successor fails, the old process
goes on, and this says why.

With --pid the daemon is asked by a signal, SIGUSR2, and its log alone tells
what comes of it.`,
		"  cleversocks upgrade --config /etc/cleversocks/cleversocks.toml\n  cleversocks upgrade --pid $(pidof -s cleversocks)", noArguments, func([]string) error {
			if pid > 0 {
				return signalUpgrade(pid)
			}
			var u admin.Upgrade
			err := c.ask(ctx, http.MethodPost, "/api/v1/upgrade", nil, &u, func(w io.Writer) {
				if u.OK {
					row(w, "upgraded", fmt.Sprintf("process %d serves", u.PID))
				}
			})
			if err == nil && !u.OK {
				return fmt.Errorf("no upgrade: %s", printable(u.Error))
			}
			return err
		})
	cmd.Flags().IntVar(&pid, "pid", 0, "Asks the process `PID` by a signal, without the API.")
	return cmd
}

// signalUpgrade asks a process for an upgrade. To any other program the signal
// means something else, as a rule its end.
func signalUpgrade(pid int) error {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	if got := strings.TrimSpace(string(name)); got != "cleversocks" {
		return fmt.Errorf("process %d is %s, and not cleversocks", pid, printable(got))
	}
	return syscall.Kill(pid, syscall.SIGUSR2)
}

func newDrain(ctx context.Context, c *client) *cobra.Command {
	return command("drain", "Has a running daemon end when its connections have", "Has the daemon take no new connections and end when those of now have, as\nSIGTERM does.", "  cleversocks drain", noArguments, func([]string) error {
		return c.ask(ctx, http.MethodPost, "/api/v1/drain", nil, nil, nil)
	})
}

func newLogLevel(ctx context.Context, c *client) *cobra.Command {
	return command("log [LEVEL]", "Shows or sets the log level of a running daemon", "Shows the log's level, or sets it until the next reload: error, warn, info,\ndebug or trace.", "  cleversocks log\n  cleversocks log debug", exactly(0, 1, "one level or none"), func(args []string) error {
		if len(args) == 1 {
			return c.ask(ctx, http.MethodPut, "/api/v1/log", admin.LogLevel{Level: args[0]}, nil, nil)
		}
		var l admin.LogLevel
		return c.ask(ctx, http.MethodGet, "/api/v1/log", nil, &l, func(w io.Writer) { row(w, l.Level) })
	})
}
