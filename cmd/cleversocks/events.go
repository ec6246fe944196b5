package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cleversocks/metrics/admin"
)

// newEvents is `cleversocks events`.
func newEvents(ctx context.Context, c *client) *cobra.Command {
	var types string
	cmd := command("events", "Follows what happens in a running daemon", "Prints a line for each session that opens or closes, and each denial, ban and\nreload, until it is interrupted. With --json a line is an object with the\nevent's name.",
		"  cleversocks events --type denied,banned", noArguments, func([]string) error {
			return c.followAgain(func() (io.ReadCloser, error) {
				resp, err := c.request(ctx, http.MethodGet, "/api/v1/events"+queryOf("type", types), nil)
				if err != nil {
					return nil, err
				}
				return resp.Body, nil
			})
		})
	cmd.Flags().StringVar(&types, "type", "", "Only the events in `LIST`: "+strings.Join(admin.EventNames, ", ")+".")
	return cmd
}

// shortestStream is how long a stream lasts that is worth following anew.
const shortestStream = time.Second

// followAgain follows a stream, and the next one where the daemon has ended it and
// serves again, as after an upgrade.
func (c *client) followAgain(open func() (io.ReadCloser, error)) error {
	stream, err := open()
	if err != nil {
		return err
	}
	for {
		began := time.Now()
		err := c.follow(stream)
		_ = stream.Close() // it was read
		if !errors.Is(err, io.ErrUnexpectedEOF) || time.Since(began) < shortestStream {
			return err
		}
		if stream, err = open(); err != nil {
			return io.ErrUnexpectedEOF // it has ended, as the stream has
		}
		if _, err := fmt.Fprintln(c.app.stderr, "cleversocks: the daemon has ended the stream, as an upgrade does: followed anew, without what happened in between"); err != nil {
			return err
		}
	}
}

// follow prints server-sent events until the stream ends.
func (c *client) follow(stream io.Reader) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxExplanation)
	name := ""
	for lines.Scan() {
		if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			name = event
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		out := io.Writer(jsonLines{c.app.stdout})
		text := fmt.Sprintf("{\"event\":%q,%s\n", name, strings.TrimPrefix(data, "{"))
		if !c.json {
			var e struct {
				admin.Event
				Events int `json:"events"` // that this stream has missed
			}
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				return fmt.Errorf("the daemon's event: %w", err)
			}
			said, at := sentence(&e.Event), e.Time
			if e.Events > 0 {
				said, at = fmt.Sprintf("%d events: they came faster than they were taken", e.Events), time.Now()
			}
			out, text = c.app.stdout, printable(at.Local().Format(time.DateTime)+"  "+name+"  "+said)+"\n"
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the stream of events: %w", err)
	}
	return io.ErrUnexpectedEOF
}

// sentence is an event for a person.
func sentence(e *admin.Event) string {
	switch {
	case e.Denial != nil:
		return e.Denial.Sentence
	case e.Ban != nil:
		return e.Ban.Source + " until " + e.Ban.Until.Local().Format(time.DateTime)
	case e.Reload != nil:
		return outcome(e.Reload)
	case e.Change != "":
		return strings.TrimSpace(e.User + " " + e.Change)
	case e.Session != nil && e.Cause == "":
		return fmt.Sprintf("%s %s %s %s to %s", e.Session.ID, e.Session.Client, orDash(e.Session.User), e.Session.Command, e.Session.Target)
	case e.Session != nil:
		return fmt.Sprintf("%s %s %s %s: %s, %s in, %s out", e.Session.ID, e.Session.Client, orDash(e.Session.User), e.Session.Target, e.Cause,
			size(e.Session.BytesIn), size(e.Session.BytesOut))
	}
	return ""
}
