package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cleversocks/supervisor/config"
)

// client is a command's way to the running daemon's API.
type client struct {
	app    *app
	admin  string // --admin: "ADDR:PORT" or "unix:PATH"
	file   string // --config
	token  string // --token-file
	json   bool   // --json
	at     string // where the daemon is, once it is connected
	base   string
	bearer string
	http   *http.Client
}

// Bounds of one question: the daemon is near, and may be busy.
const (
	askTimeout = time.Minute // an upgrade takes the longest
	maxAnswer  = 64 << 20
)

// addFlags adds what every command to a running daemon takes.
func (c *client) addFlags(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&c.admin, "admin", "", "The daemon's admin endpoint: `ADDR:PORT` or unix:PATH.")
	flags.StringVar(&c.token, "token-file", "", "The `FILE` that holds the token of its API.")
	flags.StringVar(&c.file, "config", "", "Finds both in the daemon's configuration `FILE`.")
	flags.BoolVar(&c.json, "json", false, "Prints JSON, for programs.")
}

// connect finds out where the daemon is, from flags, or from the settings.
func (c *client) connect(ctx context.Context) error {
	if c.http != nil {
		return nil // it is known: one connection serves all questions
	}
	cfg, err := c.app.loader(c.file, c.overrides()...).Load(ctx)
	if err != nil {
		return err
	}
	c.bearer = cfg.Admin.Token.Reveal()
	if c.bearer == "" && cfg.Admin.Address.Socket == "" {
		return usageError{"the API needs the token that the daemon has in admin.token_file: give --token-file FILE, or its settings by --config FILE"}
	}
	c.at = cfg.Admin.Address.String()
	c.base, c.http, err = adminAt(cfg.Admin.Address)
	return err
}

// overrides are the flags that say where the daemon is.
func (c *client) overrides() (given []config.Override) {
	for _, o := range []config.Override{{Key: "admin.address", Flag: "admin", Value: c.admin}, {Key: "admin.token_file", Flag: "token-file", Value: c.token}} {
		if o.Value != "" {
			given = append(given, o)
		}
	}
	return given
}

// request sends one request; the caller closes the answer's body.
func (c *client) request(ctx context.Context, method, path string, body any) (*http.Response, error) {
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		send = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, send)
	if err != nil {
		return nil, err
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(c.at, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxExplanation)) // what came of it is enough
	_ = resp.Body.Close()                                            // read, or of no more use
	var failure struct{ Error string }
	if json.Unmarshal(said, &failure) != nil || failure.Error == "" {
		failure.Error = string(bytes.TrimSpace(said))
	}
	return nil, fmt.Errorf("the daemon answers %s: %s", resp.Status, printable(failure.Error))
}

// unreachable says what to do when nobody answers at an address.
func unreachable(at string, err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: the socket is its owner's: ask as the user that the daemon runs as, or as root", err)
	}
	return fmt.Errorf("no daemon answers at %s: %w; if it listens elsewhere, give --admin ADDR:PORT or unix:PATH, or its settings by --config FILE", at, err)
}

// ask gets an answer, shows it as JSON if that is wanted, and else decodes it
// and has show write a table.
func (c *client) ask(ctx context.Context, method, path string, body, into any, show func(w io.Writer)) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("the daemon's answer: %w", err)
	}
	if c.json && len(answer) > 0 {
		_, err = (jsonLines{c.app.stdout}).Write(answer)
	}
	if err != nil || into == nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("the daemon's answer: %w", err)
	}
	if c.json {
		return nil
	}
	table := tabwriter.NewWriter(c.app.stdout, 0, 8, 2, ' ', 0)
	show(table)
	return table.Flush()
}

// row writes a line of a table. Nothing in it reaches the terminal as a
// command.
func row(w io.Writer, cells ...any) {
	for i, cell := range cells {
		end := "\t"
		if i == len(cells)-1 {
			end = "\n"
		}
		_, _ = io.WriteString(w, printable(fmt.Sprint(cell))+end) // Flush says what is wrong
	}
}

// orDash is a cell that is not empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// size is bytes for a person.
func size[N int64 | uint64 | float64](n N) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for ; v >= 1023.95 && i < len(units)-1; i++ { // less is not written as 1024.0
		v /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// age is a duration for a person.
func age(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// queryOf is the part of a path behind the question mark.
func queryOf(pairs ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

// exactly is a command's number of arguments.
func exactly(from, to int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < from || len(args) > to {
			return usageError{"give it " + what}
		}
		return nil
	}
}
