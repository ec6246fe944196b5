package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cleversocks/metrics/admin"
	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
)

// How long the running daemon may take to explain, names resolved, and the
// most that it may say, in bytes.
const (
	explainTimeout = 30 * time.Second
	maxExplanation = 1 << 20
)

// newExplain is `cleversocks explain`.
func newExplain(ctx context.Context, a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain --to HOST:PORT [--user NAME] [--from ADDR] [--command WHICH]",
		Short: "Says what the rules decide about a request, and which rule does",
		Long: `Says what a request meets: bans, the listener, the log-in that is needed, the
forwarding rule, and what the rules decide about the name, and about each
address that it has now, with the rule, its file and line. In JSON, result, stage
and by are the outcome of all of these together.

With --config it is the settings in that file and the environment that answer.
Without, the running daemon is asked at its admin endpoint, with the token
that admin.token_file holds there. Exit status: 0 answered, whatever the
answer; 1 no answer; 2 configuration or usage.`,
		Example: `  cleversocks explain --to example.com:443 --user alice
  cleversocks explain --config cleversocks.toml --to 10.0.0.1:22 --command udp`,
		Args: noArguments,
	}
	var q supervisor.Question
	var where rulesAt
	var asJSON bool
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&q.To, "to", "", "The target, as `HOST:PORT`.")
	flags.StringVar(&q.User, "user", "", "The client's user `NAME`; empty: it gave none.")
	flags.StringVar(&q.From, "from", "127.0.0.1", "The client's address, `ADDR`.")
	flags.StringVar(&q.Command, "command", "connect", "`WHICH` of connect, udp and bind.")
	flags.StringVar(&q.Listener, "listener", "", "The `NAME` of the listener that the client comes to; empty: none in particular.")
	where.add(flags)
	flags.BoolVar(&asJSON, "json", false, "Prints JSON, for programs.")
	cmd.RunE = func(*cobra.Command, []string) error {
		if q.To == "" {
			return usageError{"--to HOST:PORT is missing"}
		}
		if err := q.Check(); err != nil {
			return usageError{"--" + err.Error()}
		}
		answer, err := where.explain(ctx, a, q)
		if err != nil {
			return err
		}
		if !asJSON {
			_, err = io.WriteString(a.stdout, answer.Text)
			return err
		}
		body, err := json.MarshalIndent(answer, "", "  ")
		if err != nil {
			return err
		}
		_, err = (jsonLines{a.stdout}).Write(append(body, '\n'))
		return err
	}
	return cmd
}

// rulesAt is whose rules a question is about: those of settings in a file, or
// those of the running daemon.
type rulesAt struct{ file, admin, token string }

func (r *rulesAt) add(flags *pflag.FlagSet) {
	flags.StringVar(&r.file, "config", "", "Asks the settings in the TOML `FILE`.")
	flags.StringVar(&r.admin, "admin", "", "Asks the running daemon at `ADDR:PORT`. (default 127.0.0.1:9180)")
	flags.StringVar(&r.token, "token-file", "", "Asks the running daemon with the token in `FILE`.")
}

func (r *rulesAt) load(ctx context.Context, a *app) (*config.Config, error) {
	daemon := client{admin: r.admin, token: r.token}
	return a.loader(r.file, daemon.overrides()...).Load(ctx)
}

func (r *rulesAt) explain(ctx context.Context, a *app, q supervisor.Question) (admin.Explanation, error) {
	cfg, err := r.load(ctx, a)
	if err != nil {
		return admin.Explanation{}, err
	}
	if r.file != "" {
		return supervisor.Explain(ctx, cfg, q)
	}
	return askDaemon(ctx, cfg.Admin, q)
}

// askDaemon asks the running daemon by its API.
func askDaemon(ctx context.Context, endpoint config.Admin, q supervisor.Question) (x admin.Explanation, err error) {
	if !endpoint.Token.IsSet() && endpoint.Address.Socket == "" {
		return x, usageError{"give --config FILE to ask settings, or --token-file FILE to ask the running daemon"}
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	base, client, err := adminAt(endpoint.Address)
	if err != nil {
		return x, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/decision?"+q.Values().Encode(), nil)
	if err != nil {
		return x, err
	}
	req.Header.Set("Authorization", "Bearer "+endpoint.Token.Reveal())
	resp, err := client.Do(req)
	if err != nil {
		return x, unreachable(endpoint.Address.String(), err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxExplanation))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return x, fmt.Errorf("no answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return x, fmt.Errorf("%s answers %s: %s", endpoint.Address, resp.Status, bytes.TrimSpace(body))
	}
	return x, json.Unmarshal(body, &x)
}
