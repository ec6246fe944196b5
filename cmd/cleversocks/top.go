package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cleversocks/cmd/cleversocks/top"
	"cleversocks/metrics/admin"
)

// newTop is `cleversocks top`.
func newTop(ctx context.Context, c *client) *cobra.Command {
	var every time.Duration
	cmd := command("top", "Shows a running daemon's sessions, live", "Shows load and sessions, and goes on. Keys: r, b and a sort by rate, bytes and age;\n/ filters, by words and by user:NAME, client:ADDR, target:TEXT and listener:NAME;\nEnter shows all of the selected session, and k closes it, once it has asked; q\nleaves. It needs a terminal; `sessions` and `status` are for programs.",
		"  cleversocks top", noArguments, func([]string) error {
			if !c.terminal() {
				return usageError{"top needs a terminal: use `cleversocks sessions --sort rate` and `cleversocks status`"}
			}
			if every < 200*time.Millisecond || every > time.Hour {
				return usageError{"--every is at least 200ms and at most 1h"}
			}
			// A daemon that is not there is an error, and no empty screen.
			var s admin.Status
			if err := c.fetch(ctx, "/api/v1/status", &s); err != nil {
				return err
			}
			return top.Run(ctx, top.Options{
				Status: func(ctx context.Context) (s admin.Status, err error) {
					err = c.fetch(ctx, "/api/v1/status", &s)
					return s, err
				},
				Sessions: c.sessionsFor, Close: c.closeSession, Every: every, Size: size[float64], Age: age, Safe: printable,
			})
		})
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "Looks again after `TIME`.")
	return cmd
}

// terminal says whether a person sits at both ends.
func (c *client) terminal() bool {
	out, ok := c.app.stdout.(*os.File)
	return ok && term.IsTerminal(int(out.Fd())) && term.IsTerminal(int(c.app.stdin.Fd())) && os.Getenv("TERM") != "dumb"
}

// fetch gets an answer.
func (c *client) fetch(ctx context.Context, path string, into any) error {
	resp, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("the daemon's answer: %w", err)
	}
	return nil
}

func (c *client) sessionsFor(ctx context.Context, sort string, f top.Filter, limit int) (page admin.SessionPage, err error) {
	err = c.fetch(ctx, "/api/v1/sessions"+queryOf("sort", sort, "user", f.User, "client", f.Client, "target", f.Target, "listener", f.Listener, "search", f.Words, "limit", strconv.Itoa(limit)), &page)
	return page, err
}

func (c *client) closeSession(ctx context.Context, id string) error {
	resp, err := c.request(ctx, http.MethodDelete, "/api/v1/sessions/"+url.PathEscape(id), nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
