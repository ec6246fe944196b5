package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cleversocks/metrics/admin"
	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/learn"
)

// learner is `cleversocks learn`.
type learner struct {
	*client
	user    string
	since   time.Duration
	options learn.Options
}

// newLearn is `cleversocks learn`.
func newLearn(ctx context.Context, a *app) *cobra.Command {
	l := &learner{client: &client{app: a}}
	cmd := &cobra.Command{
		Use:   "learn [LOG...]",
		Short: "Writes the smallest allowlist that lets through what was denied",
		Long: `Reads what the rules denied, or would have denied under acl.report_only, and
prints the rules that would have let it through, with counts, for a person to
review: who, which destination, which ports, and nothing that was not asked for.

It reads the logs given ("-" or none: standard input), in JSON or text, of which
it takes the lines "would be denied" and the records of connections that were
denied. With --admin or --token-file and no log it is the latest denials of the
running daemon. With --config, users who are all of a group become the group.
Exit status: 0 done, 1 not, 2 usage.`,
		Example: `  cleversocks learn /var/log/cleversocks.log > rules-to-review.toml
  journalctl -u cleversocks -o cat | cleversocks learn --min-count 3
  cleversocks learn --token-file /etc/cleversocks/token`,
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&l.user, "user", "", "Only what the user `NAME` asked for.")
	flags.DurationVar(&l.since, "since", 0, "Only the last `DURATION`. (default all)")
	flags.IntVar(&l.options.MinCount, "min-count", 0, "Leaves out what was asked for less than `N` times.")
	flags.BoolVar(&l.options.Anyone, "anyone", false, "Rules for anybody, not for those who asked: fewer, and wider.")
	l.addFlags(cmd)
	cmd.RunE = func(_ *cobra.Command, logs []string) error { return l.run(ctx, logs) }
	return cmd
}

func (l *learner) run(ctx context.Context, logs []string) error {
	l.app.stdinIsConfig = l.file == config.Stdin
	filter := learn.Filter{User: l.user}
	if l.since > 0 {
		filter.Since = time.Now().Add(-l.since)
	}
	var seen learn.Seen
	var err error
	if len(logs) == 0 && (l.admin != "" || l.token != "") {
		err = l.ofDaemon(ctx, &seen, filter)
	} else {
		err = l.ofLogs(&seen, filter, logs)
	}
	if err != nil {
		return err
	}
	if l.file != "" {
		cfg, err := l.app.loader(l.file).Load(ctx)
		if err != nil {
			return err
		}
		if l.options.Groups, err = supervisor.Groups(cfg); err != nil {
			return err
		}
	}
	rules := seen.Rules(l.options)
	if !l.json {
		return learn.WriteTOML(l.app.stdout, &seen, rules)
	}
	body, err := json.MarshalIndent(rules, "", "  ")
	if err != nil {
		return err
	}
	_, err = (jsonLines{l.app.stdout}).Write(append(body, '\n'))
	return err
}

// ofLogs reads the logs, or standard input.
func (l *learner) ofLogs(seen *learn.Seen, filter learn.Filter, logs []string) error {
	if len(logs) == 0 {
		logs = []string{"-"}
	}
	for _, path := range logs {
		if path == "-" {
			in, err := l.app.input("a log")
			if err != nil {
				return err
			}
			if err := seen.ReadLog(in, filter); err != nil {
				return fmt.Errorf("standard input: %w", err)
			}
			continue
		}
		f, err := os.Open(path) //nolint:gosec // whoever types the command names the file
		if err != nil {
			return usageError{err.Error()}
		}
		if err := errors.Join(seen.ReadLog(f, filter), f.Close()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// ofDaemon asks the running daemon.
func (l *learner) ofDaemon(ctx context.Context, seen *learn.Seen, filter learn.Filter) error {
	asked := *l.client
	asked.json = false
	var denials []admin.Denial
	if err := asked.ask(ctx, http.MethodGet, "/api/v1/denials", nil, &denials, func(io.Writer) {}); err != nil {
		return err
	}
	for _, d := range denials {
		if filter.User != "" && d.User != filter.User || d.Time.Before(filter.Since) {
			continue
		}
		one := learn.Request{Time: d.Time, User: d.User, Client: learn.HostOf(d.Client), Command: d.Command, Target: d.Target, Rule: d.Rule}
		one.Address, _ = netip.ParseAddr(d.Address) // "": a name was judged
		for range d.Count {
			if err := seen.Add(one); err != nil {
				seen.Skipped++
			}
		}
	}
	return nil
}
