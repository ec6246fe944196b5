//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The fleet's table: what a shared state costs a connection, and what replicas,
// connections and users cost the store.

// fleetSizes are the numbers of replicas that are measured.
var fleetSizes = []int{1, 2, 4}

// fleetParts is how many turns the columns that are compared take in a round. The
// turns are short, and who begins changes: what else the machine does then meets
// both alike.
const fleetParts = 6

// fleetClients is how many clients connect at once.
const fleetClients = 4

// The users of a fleet under measurement: one whom the cap is far from, and one
// of whom every connection has to be asked for.
const (
	farUser  = "far"
	nearUser = "near"
)

const fleetConfig = `
[log]
access = "off"
level = "warn"
[auth]
allow_plain_passwords = true
once = { enabled = true }
[[user]]
name = "far"
password = "secret"
max_connections = 100000
[[user]]
name = "near"
password = "secret"
max_connections = 400
`

// fleet is some replicas, and their store if they have one.
type fleet struct {
	dir       string
	store     string // its unix socket; "": none
	addresses []string
	admins    []string // their management endpoints
	processes []*exec.Cmd
}

// startFleet runs n replicas, with a store or without.
func startFleet(ctx context.Context, binary string, n int, shared bool) (f *fleet, err error) {
	f = &fleet{}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	if f.dir, err = os.MkdirTemp("", "cleversocks-fleet-"); err != nil {
		return f, err
	}
	var all strings.Builder
	all.WriteString(fleetConfig + callsUsers)
	for i := range heldUsers {
		fmt.Fprintf(&all, "[[user]]\nname = \"u%d\"\npassword = \"secret\"\nmax_connections = 10\n", i)
		fmt.Fprintf(&all, "[[user]]\nname = \"q%d\"\npassword = \"secret\"\nquota = { bytes = \"1GiB\", period = \"24h\" }\n", i)
	}
	settings := all.String()
	if shared {
		f.store = filepath.Join(f.dir, "redis.sock")
		if err = f.run(ctx, "redis-server", "--port", "0", "--unixsocket", f.store, "--save", "", "--appendonly", "no", "--dir", f.dir); err != nil {
			return f, err
		}
		if err = f.awaitStore(ctx); err != nil {
			return f, err
		}
	}
	if err = os.WriteFile(f.token(), []byte(newsToken), 0o600); err != nil {
		return f, err
	}
	for i := range n {
		if err = f.runReplica(ctx, binary, settings, i); err != nil {
			return f, err
		}
	}
	return f, pause(ctx, fleetBeat) // until the replicas have seen each other
}

func (f *fleet) token() string { return filepath.Join(f.dir, "token") }

func (f *fleet) runReplica(ctx context.Context, binary, settings string, i int) error {
	var at [2]string // the proxy, the management endpoint
	for i := range at {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		at[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	settings += fmt.Sprintf("[[listener]]\naddress = %q\n[admin]\naddress = %q\ntoken_file = '%s'\n", at[0], at[1], f.token())
	if f.store != "" {
		settings += fmt.Sprintf("[shared_state]\nurl = \"unix://%s\"\nreplica = \"r%d\"\n", f.store, i)
	}
	path := filepath.Join(f.dir, fmt.Sprintf("r%d.toml", i))
	if err := os.WriteFile(path, []byte(settings), 0o600); err != nil {
		return err
	}
	if err := f.run(ctx, binary, "--config", path); err != nil {
		return err
	}
	f.addresses, f.admins = append(f.addresses, at[0]), append(f.admins, at[1])
	return awaitAccept(ctx, at[0])
}

func (f *fleet) run(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return err
	}
	f.processes = append(f.processes, c)
	return nil
}

func (f *fleet) stop() {
	for _, c := range slices.Backward(f.processes) {
		_ = c.Process.Kill()
		_ = c.Wait() // killed, as asked
	}
	_ = os.RemoveAll(f.dir)
}

func (f *fleet) awaitStore(ctx context.Context) error {
	for range 200 {
		if _, err := f.info(); err == nil {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the store does not answer")
}

// storeUsage is what the store has done since its start.
type storeUsage struct {
	calls float64 // of scripts, and commands beside them
	bytes float64
	cpu   float64 // seconds
}

func (u storeUsage) minus(o storeUsage, seconds float64) storeUsage {
	return storeUsage{u.calls - o.calls, u.bytes - o.bytes, u.cpu - o.cpu}.over(seconds)
}

func (u storeUsage) over(n float64) storeUsage {
	return storeUsage{u.calls / n, u.bytes / n, u.cpu / n}
}

// info asks the store. The question itself is one command.
func (f *fleet) info() (storeUsage, error) {
	c, err := net.Dial("unix", f.store)
	if err != nil {
		return storeUsage{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(dialTimeout))
	if _, err := io.WriteString(c, "INFO everything\r\n"); err != nil {
		return storeUsage{}, err
	}
	r := bufio.NewReader(c)
	head, err := r.ReadString('\n')
	if err != nil {
		return storeUsage{}, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "$")))
	if err != nil {
		return storeUsage{}, fmt.Errorf("the store says %s", head)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return storeUsage{}, err
	}
	fields := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			value, _, _ = strings.Cut(strings.TrimPrefix(value, "calls="), ",") // of cmdstat_*
			fields[name], _ = strconv.ParseFloat(value, 64)                     // those that are no numbers are of no interest
		}
	}
	calls := 0.0
	for _, name := range []string{"evalsha", "xread", "xadd", "set"} { // no script uses these
		calls += fields["cmdstat_"+name]
	}
	return storeUsage{
		calls, fields["total_net_input_bytes"] + fields["total_net_output_bytes"],
		fields["used_cpu_sys"] + fields["used_cpu_user"],
	}, nil
}

// setUp is one connection of a user's up to its reply; close ends it.
func setUp(ctx context.Context, proxy, user string, target *net.TCPAddr) (net.Conn, time.Duration, error) {
	begin := time.Now()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp4", proxy)
	if err != nil {
		return nil, 0, err
	}
	_ = c.SetDeadline(time.Now().Add(dialTimeout))
	if err := greet(c, user, target); err != nil {
		return nil, 0, errors.Join(err, c.Close())
	}
	return c, time.Since(begin), nil
}

// greet logs a user in and connects.
func greet(c net.Conn, user string, target *net.TCPAddr) error {
	hello := append([]byte{5, 1, 2, 1, byte(len(user))}, user...)
	hello = append(append(hello, 6), "secret"...)
	hello = append(append(hello, 5, 1, 0, 1), target.IP.To4()...)
	hello = append(hello, byte(target.Port>>8), byte(target.Port))
	answer := make([]byte, 2+2+10)
	if _, err := c.Write(hello); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if answer[3] != 0 || answer[5] != 0 {
		return fmt.Errorf("%s is refused: % x", user, answer)
	}
	return nil
}

// setUps are how long connections of a user took, by clients that go round the
// replicas for a while.
func (f *fleet) setUps(ctx context.Context, user string, d time.Duration, target *net.TCPAddr) ([]time.Duration, error) {
	took := make([][]time.Duration, fleetClients)
	end := time.Now().Add(d)
	var w workers
	for i := range took {
		w.run(func() error {
			for n := i; time.Now().Before(end); n++ {
				c, one, err := setUp(ctx, f.addresses[n%len(f.addresses)], user, target)
				if err != nil {
					return err
				}
				_ = c.Close()
				took[i] = append(took[i], one)
			}
			return nil
		})
	}
	err := w.wait()
	return slices.Concat(took...), err
}

// fleetFigures are those of one size.
type fleetFigures struct {
	took map[string][]time.Duration // all set-ups of a column
	p99  map[string][]time.Duration // of each turn of a column
	time map[string]time.Duration   // in which they were
	idle storeUsage                 // a second
	held storeUsage                 // a second, for a user who has connections at a replica
	each storeUsage                 // a connection near the cap
	news []news
}

// heldUsers is how many users have a connection at each replica while that is measured.
const heldUsers = 100

// columns of the table: without a store, with one, and near the cap.
var fleetColumns = []string{"alone", "store", "near the cap"}

// measureFleet measures all sizes, the columns taking turns, and reports.
func measureFleet(ctx context.Context, o options, dir string) error {
	binary := o.ours
	if binary == "" {
		binary = filepath.Join(dir, "cleversocks")
	}
	s, err := serve(echo)
	if err != nil {
		return err
	}
	defer s.close()
	var b bytes.Buffer
	fleetHead(&b, o)
	for _, n := range fleetSizes {
		figures, err := measureSize(ctx, o, binary, n, s.addr())
		if err != nil {
			return fmt.Errorf("%d replicas: %w", n, err)
		}
		fleetRow(&b, n, figures)
		if n == fleetSizes[len(fleetSizes)-1] {
			newsTable(&b, n, figures.news)
		}
	}
	if _, err := os.Stdout.Write(b.Bytes()); err != nil || o.write == "" {
		return err
	}
	return os.WriteFile(o.write, b.Bytes(), 0o644)
}

func measureSize(ctx context.Context, o options, binary string, n int, target *net.TCPAddr) (*fleetFigures, error) {
	alone, err := startFleet(ctx, binary, n, false)
	if err != nil {
		return nil, err
	}
	defer alone.stop()
	together, err := startFleet(ctx, binary, n, true)
	if err != nil {
		return nil, err
	}
	defer together.stop()
	figures := &fleetFigures{took: map[string][]time.Duration{}, p99: map[string][]time.Duration{}, time: map[string]time.Duration{}}
	if figures.idle, err = together.storeRate(ctx, o.duration*4); err != nil {
		return nil, err
	}
	type turn struct {
		column string
		of     *fleet
	}
	turns := []turn{{"alone", alone}, {"store", together}}
	for range o.rounds * fleetParts {
		for _, t := range turns {
			if err := figures.take(ctx, t.column, t.of, farUser, o.duration/fleetParts, target); err != nil {
				return nil, err
			}
		}
		slices.Reverse(turns)
	}
	if err := figures.hold(ctx, together, target); err != nil {
		return nil, err
	}
	held, err := together.hold(ctx, target, 310, func(int) string { return nearUser })
	defer closeConns(held)
	if err != nil {
		return nil, err
	}
	before, err := together.info()
	if err != nil {
		return nil, err
	}
	for range o.rounds {
		if err := figures.take(ctx, "near the cap", together, nearUser, o.duration, target); err != nil {
			return nil, err
		}
	}
	after, err := together.info()
	if err != nil {
		return nil, err
	}
	figures.each = after.minus(before, float64(len(figures.took["near the cap"])))
	figures.news, err = together.measureNews(ctx, target)
	return figures, err
}

// hold measures what users cost the store who do nothing but have connections.
func (g *fleetFigures) hold(ctx context.Context, f *fleet, target *net.TCPAddr) error {
	n := heldUsers * len(f.addresses)
	held, err := f.hold(ctx, target, n, func(i int) string { return fmt.Sprint("u", i/len(f.addresses)) })
	defer closeConns(held)
	if err != nil {
		return err
	}
	with, err := f.storeRate(ctx, 2*fleetBeat)
	g.held = storeUsage{with.calls - g.idle.calls, with.bytes - g.idle.bytes, with.cpu - g.idle.cpu}.over(float64(n))
	return err
}

// fleetBeat is how often a replica says what it holds.
const fleetBeat = 3 * time.Second

func closeConns(list []net.Conn) {
	for _, c := range list {
		_ = c.Close()
	}
}

// hold opens connections at the replicas by turns.
func (f *fleet) hold(ctx context.Context, target *net.TCPAddr, n int, user func(i int) string) (all []net.Conn, err error) {
	for i := range n {
		c, _, err := setUp(ctx, f.addresses[i%len(f.addresses)], user(i), target)
		if err != nil {
			return all, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (g *fleetFigures) take(ctx context.Context, column string, f *fleet, user string, d time.Duration, target *net.TCPAddr) error {
	all, err := f.setUps(ctx, user, d, target)
	if err != nil || len(all) == 0 {
		return errors.Join(err, ctx.Err())
	}
	g.took[column] = append(g.took[column], all...)
	g.time[column] += d
	slices.Sort(all)
	g.p99[column] = append(g.p99[column], all[len(all)*99/100])
	return nil
}

// ratio is the median of what p99 with a store was of p99 without, turn by turn:
// pairs that another program has disturbed do not decide.
func (g *fleetFigures) ratio() float64 {
	var ratios []float64
	for i := range min(len(g.p99["alone"]), len(g.p99["store"])) {
		ratios = append(ratios, float64(g.p99["store"][i])/float64(g.p99["alone"][i]))
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// quantile of a column, in µs.
func (g *fleetFigures) quantile(column string, percent int) float64 {
	all := g.took[column]
	slices.Sort(all)
	return float64(all[len(all)*percent/100]) / float64(time.Microsecond)
}

// storeRate is what the store does in a second while nobody comes.
func (f *fleet) storeRate(ctx context.Context, d time.Duration) (storeUsage, error) {
	before, err := f.info()
	if err != nil {
		return storeUsage{}, err
	}
	if err = pause(ctx, d); err != nil {
		return storeUsage{}, err
	}
	after, err := f.info()
	return after.minus(before, d.Seconds()), err
}

func fleetHead(b *bytes.Buffer, o options) {
	fmt.Fprintf(b, `# The fleet, measured

Written by `+"`go run ./e2e/bench -fleet -write`"+`; docs/fleet.md says what follows from it.

- Date: %s
- Processor: %s, %d cores in use, for load, replicas and store together
- Load: %d clients that log in, connect and close, %v each, %d rounds, by turns

Set-up is from the first packet to the reply. "Alone" has no shared state; "store" has one, and a user far from
the cap; "near the cap" asks the store where it must. The store's figures are calls, bytes both ways, and µs of its
processor: a second with idle replicas; a second more for each user at each replica who has a connection; and for
each connection near the cap.

| replicas | set-up alone, p50 / p99 µs | with store | ratio of p99, of all; median of pairs | near the cap | connections/s: alone, store, near | store, idle | for a user at a replica | for a connection near the cap |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|
`, time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), fleetClients, o.duration, o.rounds)
}

func fleetRow(b *bytes.Buffer, n int, g *fleetFigures) {
	pair := func(column string) string {
		return fmt.Sprintf("%.0f / %.0f", g.quantile(column, 50), g.quantile(column, 99))
	}
	fmt.Fprintf(b, "| %d | %s | %s | %.2f; %.2f | %s |", n, pair("alone"), pair("store"), g.quantile("store", 99)/g.quantile("alone", 99), g.ratio(), pair("near the cap"))
	for i, column := range fleetColumns {
		fmt.Fprintf(b, "%s%.0f", []string{" ", ", ", ", "}[i], float64(len(g.took[column]))/g.time[column].Seconds())
	}
	for _, u := range []storeUsage{g.idle, g.held, g.each} {
		fmt.Fprintf(b, " | %.2f, %.0f, %.1f", u.calls, u.bytes, u.cpu*1e6)
	}
	fmt.Fprintln(b, " |")
}
