//go:build linux

// Command bench measures SOCKS5 proxies from outside: what they carry, how
// long they take, and what processor time, memory and descriptors that costs.
//
//	go run ./e2e/bench                        # ours, microsocks, danted, iocopy and udpplain
//	go run ./e2e/bench -quick -only ours,iocopy
//	go run ./e2e/bench -proxy 'mine=/usr/bin/mine -listen {host}:{port}'
//	PEERS='mine=./start-mine.sh' go run ./e2e/bench   # the script gets host and port
//	go run ./e2e/bench -write docs/benchmarks.md
//	go run ./e2e/bench -fleet                 # replicas with and without a shared state
//	go run ./e2e/bench -calls                 # how often these call it
//	go run ./e2e/bench -rounds 1 -keep figures -write docs/benchmarks.md   # once more: two rounds
//	go run ./e2e/bench -growth -write docs/growth.md    # with pictures beside it
//	go run ./e2e/bench -growth -measure rules -write docs/growth.md        # this curve alone anew
//	go run ./e2e/bench -most                  # as many tunnels as the descriptors allow
//	go run ./e2e/bench -page                  # what it costs to watch 10,000 sessions in a browser
//
// It makes a network namespace of its own with reno as congestion control: the
// pacing of bbr on loopback hides what a proxy costs. The proxies take turns,
// one running at a time, and the figures are medians over the rounds. All of
// it needs root or user namespaces, and Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	quick      bool
	rounds     int
	duration   time.Duration
	relays     int
	congestion string
	ours       string
	only       string
	measure    string
	write      string
	keep       string
	fleet      bool
	calls      bool
	growth     bool
	most       bool
	page       bool
	extra      []string
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&o.quick, "quick", false, "under a minute, for a first look")
	f.IntVar(&o.rounds, "rounds", 0, "how often each proxy takes its turn; 0: 5 times, and each point of -growth 3 times")
	f.DurationVar(&o.duration, "duration", 1500*time.Millisecond, "of one measurement under load")
	f.IntVar(&o.relays, "relays", 2000, "idle relays whose memory is measured")
	f.StringVar(&o.congestion, "congestion", "reno", "TCP congestion control in the namespace")
	f.StringVar(&o.ours, "ours", "", "our binary; empty: build ./cmd/cleversocks")
	f.StringVar(&o.only, "only", "", "names of the proxies to measure, comma-separated; empty: all")
	f.StringVar(&o.measure, "measure", "", "start of the names of the measurements, or a name and =, comma-separated; with -growth the curves' names; empty: all")
	f.StringVar(&o.write, "write", "", "also write the table to this file")
	f.StringVar(&o.keep, "keep", "", "keep all figures in this file, and count those in with it that it has: a long run in pieces")
	f.BoolVar(&o.fleet, "fleet", false, "measure replicas with and without a shared state, in the place of all else")
	f.BoolVar(&o.calls, "calls", false, "count how often replicas call the shared state, in the place of all else")
	f.BoolVar(&o.growth, "growth", false, "measure what more tunnels, rules, users and names cost, in the place of all else")
	f.BoolVar(&o.most, "most", false, "open as many tunnels as the descriptors allow, reload and drain, in the place of all else")
	f.BoolVar(&o.page, "page", false, "watch 10,000 sessions on the status page in Chromium, in the place of all else")
	f.Func("proxy", "another proxy, as name=command with {host} and {port}; repeatable", func(s string) error {
		if name, command, ok := strings.Cut(s, "="); !ok || name == "" || command == "" {
			return errors.New("want name=command")
		}
		o.extra = append(o.extra, s)
		return nil
	})
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if err := o.addPeers(os.Getenv("PEERS")); err != nil {
		return o, err
	}
	if err := o.checkMeasure(); err != nil {
		return o, err
	}
	if o.rounds == 0 {
		o.rounds = 5
		if o.growth {
			o.rounds = 3
		}
	}
	if o.quick {
		o.rounds, o.duration, o.relays = min(o.rounds, 2), min(o.duration, 400*time.Millisecond), min(o.relays, 500)
	}
	if o.rounds < 1 || o.rounds > 100 || o.relays < 1 || o.relays > 5000 || o.duration < time.Millisecond {
		return o, errors.New("out of range: -rounds 1 to 100, -relays 1 to 5000, -duration above 1ms")
	}
	return o, nil
}

// addPeers adds proxies of the form name=script, separated by semicolons. A
// script is run with the host and the port that it is to listen on, and stays
// in the foreground.
func (o *options) addPeers(list string) error {
	for peer := range strings.SplitSeq(list, ";") {
		peer = strings.TrimSpace(peer)
		if peer == "" {
			continue
		}
		name, script, ok := strings.Cut(peer, "=")
		if !ok || name == "" || script == "" {
			return fmt.Errorf("PEERS: %q: want name=script", peer)
		}
		if !strings.Contains(script, "{port}") {
			script += " {host} {port}"
		}
		o.extra = append(o.extra, name+"="+script)
	}
	return nil
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == placeCommand {
		fmt.Fprintln(os.Stderr, "bench:", place(os.Args[2:]))
		os.Exit(1)
	}
	if len(os.Args) > 1 && os.Args[1] == bulkCommand {
		if err := bulkLoad(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench: bulk load:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = start(ctx, o)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode()) // the one inside has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// start builds the proxies and goes into a namespace, or measures when it is
// inside.
func start(ctx context.Context, o options) error {
	if dir := os.Getenv(insideVariable); dir != "" {
		return measureAll(ctx, o, dir)
	}
	dir, err := os.MkdirTemp("", "cleversocks-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := build(ctx, o, dir); err != nil {
		return err
	}
	return enterNamespace(dir)
}

// measureAll lets each proxy take its turn at each measurement, round by round.
func measureAll(ctx context.Context, o options, dir string) error {
	if err := setUpNetwork(o.congestion); err != nil {
		return err
	}
	if o.fleet {
		return measureFleet(ctx, o, dir)
	}
	if o.calls {
		return measureCalls(ctx, o, dir)
	}
	if o.growth {
		return measureGrowth(ctx, o, dir)
	}
	if o.most {
		return measureMost(ctx, o, dir)
	}
	if o.page {
		return measurePage(ctx, o, dir)
	}
	names, stop, err := serveNames()
	if err != nil {
		return err
	}
	defer stop()
	proxies, err := choose(o, dir, names)
	if err != nil {
		return err
	}
	var table results
	if o.keep != "" {
		if err := table.read(o.keep); err != nil {
			return fmt.Errorf("%s: %w", o.keep, err)
		}
	}
	chosen := chooseMeasurements(o)
	for round := range o.rounds {
		for _, m := range chosen {
			for _, p := range proxies {
				if p.carries&m.carries == 0 {
					continue
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				values, err := turn(ctx, o, m, p)
				if err != nil && p.stranger && m.carries == overUDP && ctx.Err() == nil {
					fmt.Fprintf(os.Stderr, "%s: %s: %v\n", p.name, m.name, err)
					continue // it has no such figure
				}
				if err != nil {
					return fmt.Errorf("%s: %s: %w", p.name, m.name, err)
				}
				table.add(p.name, values)
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, o.rounds, m.name)
		}
	}
	if o.keep != "" {
		if err := table.write(o.keep); err != nil {
			return err
		}
	}
	return report(o, proxies, table.measured(), &table)
}

// turn measures one thing at one freshly started proxy.
func turn(ctx context.Context, o options, m measurement, p proxy) ([]value, error) {
	if special, ok := p.as[m.carries]; ok {
		p = special
	}
	running, err := p.start(ctx)
	if err != nil {
		return nil, err
	}
	defer running.stop()
	values, err := m.run(ctx, o, running)
	if err != nil {
		return nil, errors.Join(err, running.failure())
	}
	if p.command == nil { // there was no processor time of a proxy
		values = slices.DeleteFunc(values, func(v value) bool { return strings.HasSuffix(v.name, ".cpu") })
	}
	return values, nil
}
