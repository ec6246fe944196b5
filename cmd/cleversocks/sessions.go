package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cleversocks/metrics/admin"
)

// sessionFlags are the conditions that sessions and kill share.
type sessionFlags struct{ user, client, target, listener string }

func (f *sessionFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.user, "user", "", "Those of the user `NAME`.")
	flags.StringVar(&f.client, "client", "", "Those from the address `ADDR`.")
	flags.StringVar(&f.target, "target", "", "Those whose target has `TEXT` in it.")
	flags.StringVar(&f.listener, "listener", "", "Those of the listener `NAME`.")
}

// meant refuses an empty condition, as a variable is that a script did not set: the
// connections of all would meet it.
func (f *sessionFlags) meant(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if names := []string{"user", "client", "target", "listener"}; slices.Contains(names, flag.Name) && flag.Value.String() == "" {
			err = usageError{"--" + flag.Name + " is empty; leave it out if all are meant"}
		}
	})
	return err
}

func (f *sessionFlags) pairs() []string {
	return []string{"user", f.user, "client", f.client, "target", f.target, "listener", f.listener}
}

func newSessions(ctx context.Context, c *client) *cobra.Command {
	var f sessionFlags
	var sort, search string
	var limit int
	cmd := command("sessions", "Lists the connections of a running daemon", "Lists the connections of now, the oldest first. Those that a process of before an\nupgrade still has are among them: the last column has its id.",
		"  cleversocks sessions --sort rate --limit 10\n  cleversocks sessions --user alice --json", noArguments, func([]string) error {
			var page admin.SessionPage
			limited := ""
			if limit > 0 {
				limited = strconv.Itoa(limit)
			}
			return c.ask(ctx, http.MethodGet, "/api/v1/sessions"+queryOf(append(f.pairs(), "sort", sort, "limit", limited, "search", search)...), nil, &page, func(w io.Writer) {
				row(w, "ID", "AGE", "CLIENT", "USER", "COMMAND", "TARGET", "IN", "OUT", "RATE", "PROCESS")
				for _, s := range page.Sessions {
					command := s.Command
					switch {
					case s.Handshake:
						command = "(handshake)"
					case s.Requests:
						command = "(requests)"
					}
					row(w, s.ID, age(time.Since(s.Started)), s.Client, orDash(s.User), orDash(command), orDash(s.Target),
						size(s.BytesIn), size(s.BytesOut), size(s.RateIn+s.RateOut)+"/s", drainsIn(&s))
				}
				if len(page.Sessions) < page.Total {
					row(w, fmt.Sprintf("%d of %d", len(page.Sessions), page.Total))
				}
			})
		})
	f.add(cmd)
	cmd.Flags().StringVar(&search, "search", "", "Those of which user, client, target or listener have each of the `WORDS`.")
	cmd.Flags().StringVar(&sort, "sort", "age", "By `WHAT`: age, bytes or rate.")
	cmd.Flags().IntVar(&limit, "limit", 0, "At most `N`. (default all)")
	return cmd
}

// drainsIn is the process of before an upgrade that a session is in.
func drainsIn(s *admin.Session) string {
	if s.Process == 0 {
		return "-"
	}
	return fmt.Sprintf("%d drains", s.Process)
}

func newKill(ctx context.Context, c *client) *cobra.Command {
	var f sessionFlags
	var cmd *cobra.Command
	cmd = command("kill [ID...]", "Closes connections of a running daemon", "Closes the connections with the ids given, or those that meet the conditions,\nthe latter on all replicas of a fleet. Their records say \"revoked\".",
		"  cleversocks kill --user alice\n  cleversocks kill --client 192.0.2.7 --target example.com", nil, func(ids []string) error {
			if err := f.meant(cmd); err != nil {
				return err
			}
			paths := []string{}
			for _, id := range ids {
				paths = append(paths, "/api/v1/sessions/"+url.PathEscape(id))
			}
			if q := queryOf(f.pairs()...); q != "" {
				paths = append(paths, "/api/v1/sessions"+q)
			}
			if len(paths) == 0 {
				return usageError{"which ones? give ids, or --user, --client, --target or --listener"}
			}
			for _, path := range paths {
				var n admin.Closed
				if err := c.ask(ctx, http.MethodDelete, path, nil, &n, func(w io.Writer) { row(w, n.Closed, "closed") }); err != nil {
					return err
				}
			}
			return nil
		})
	cmd.Args = nil
	f.add(cmd)
	return cmd
}
