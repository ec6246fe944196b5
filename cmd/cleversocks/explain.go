package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

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
address that it has now, with the rule, its file and line.

With --config it is the settings in that file and the environment that answer.
Without, the running daemon is asked at its admin endpoint, with the token
that admin.token_file holds there. Exit status: 0 answered, whatever the
answer; 1 no answer; 2 configuration or usage.`,
		Args: noArguments,
	}
	var q supervisor.Question
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&q.To, "to", "", "The target, as `HOST:PORT`.")
	flags.StringVar(&q.User, "user", "", "The client's user `NAME`; empty: it gave none.")
	flags.StringVar(&q.From, "from", "127.0.0.1", "The client's address, `ADDR`.")
	flags.StringVar(&q.Command, "command", "connect", "`WHICH` of connect, udp and bind.")
	flags.StringVar(&q.Listener, "listener", "", "The `NAME` of the listener that the client comes to; empty: none in particular.")
	file := flags.String("config", "", "Asks the settings in the TOML `FILE`.")
	admin := flags.String("admin", "", "Asks the running daemon at `ADDR:PORT`. (default 127.0.0.1:9180)")
	tokenFile := flags.String("token-file", "", "Asks the running daemon with the token in `FILE`.")
	cmd.RunE = func(*cobra.Command, []string) error {
		if q.To == "" {
			return usageError{"--to HOST:PORT is missing"}
		}
		if err := q.Check(); err != nil {
			return usageError{"--" + err.Error()}
		}
		environ := a.environ
		for flag, name := range map[*string]string{admin: "CLEVERSOCKS_ADMIN__ADDRESS", tokenFile: "CLEVERSOCKS_ADMIN__TOKEN_FILE"} {
			if *flag != "" {
				environ = append(environ, name+"="+*flag)
			}
		}
		cfg, err := config.NewLoader(config.Sources{File: *file, Environ: environ}).Load(ctx)
		if err != nil {
			return err
		}
		var answer string
		if *file != "" {
			answer, err = supervisor.Explain(ctx, cfg, q)
		} else {
			answer, err = askDaemon(ctx, cfg.Admin, q)
		}
		if err != nil {
			return err
		}
		_, err = io.WriteString(a.stdout, answer)
		return err
	}
	return cmd
}

// askDaemon asks the running daemon by its API.
func askDaemon(ctx context.Context, endpoint config.Admin, q supervisor.Question) (string, error) {
	if !endpoint.Token.IsSet() && endpoint.Address.Socket == "" {
		return "", usageError{"give --config FILE to ask settings, or --token-file FILE to ask the running daemon"}
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	base, client, err := adminAt(endpoint.Address)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/explain?"+q.Values().Encode(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+endpoint.Token.Reveal())
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxExplanation))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %s", endpoint.Address, resp.Status, bytes.TrimSpace(body))
	}
	return string(body), nil
}
