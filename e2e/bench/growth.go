//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// The growth of costs: the daemon is measured with 10, 100, 1000 and so on of
// something, and each figure is drawn over that number.

// subject is something that there can be much of.
type subject struct {
	name   string // of the picture's file
	title  string
	counts []int
	run    func(ctx context.Context, g *growth, n int) (point, error)
	says   string // what the curves look like, and why
}

// point is what is measured at one count. A figure that was not measured is 0.
type point struct {
	load    float64 // seconds of processor time until it serves
	memory  float64 // MiB, user memory of its own and the kernel's for it
	connect float64 // microseconds of processor time for a connection
	p99     float64 // microseconds, of what the subject says
}

// growth is one run of the mode.
type growth struct {
	binary string
	dir    string // where files of configurations are
}

var subjects = []subject{
	{
		name: "tunnels", title: "tunnels", counts: []int{10, 100, 1000, 3000, 9000}, run: growTunnels,
		says: "Tunnels that are open and at rest. Memory is a straight line above what the process holds by itself. " +
			"A connection costs the same beside 9,000 others as beside 10: nothing walks over the tunnels. The p99 is that of 16 busy " +
			"64-byte echoes beside them.",
	},
	{
		name: "rules", title: "rules", counts: []int{1, 10, 100, 1000, 10_000}, run: growRules,
		says: "`[[acl.rule]]` tables that all deny a network and a port, none of which is the destination's; 10,000 is the most that a file may have. " +
			"They are found by their destination, without a look at the others, so a connection costs the same with one and with 10,000, " +
			"give or take some percent: with 10,000 a garbage collection has several times as much to look at (5 ms of processor time in the " +
			"place of 1), but comes as much more rarely, as the heap is larger. That is a microsecond a connection; the processor's caches are the rest. " +
			"(Rules without a destination are judged one by one, and nobody has thousands of those.) Loading and memory are linear.",
	},
	{
		name: "list", title: "entries of one rule's list", counts: []int{1, 10, 100, 1000, 10_000, 100_000}, run: growList,
		says: "Networks and names, half and half, in the file of one rule (`to = [\"file:...\"]`). Names are found by hash and networks " +
			"by their prefix, so a connection costs the same with one entry and with 100,000. Loading and memory are linear.",
	},
	{
		name: "users", title: "users", counts: []int{1, 10, 100, 1000, 10_000}, run: growUsers,
		says: "`[[user]]` tables with a limit each; every connection logs in as any of them, with its password. Loading and memory are linear. " +
			"A connection costs somewhat more with many users: each has counters of its own, made at the first log-in, and with 10,000 users " +
			"the first log-in of most is in the figure.",
	},
	{
		name: "names", title: "cached names", counts: []int{1, 10, 100, 1000, 10_000, 100_000}, run: growNames,
		says: "Names in the resolver's cache; every connection asks for any of them. The cache is a hash table, so the cost of a connection " +
			"is flat but for the processor's caches and the garbage collector, who looks at each name: with 100,000, 30 ms of processor time " +
			"at every 20,000th connection. Memory is linear.",
	},
}

// growthHead is of all configurations; {port} is filled in.
const growthHead = `
[log]
access = "off"
level = "warn"
[auth]
allow_plain_passwords = true
[acl]
block_private = false
[admin]
address = ""
[[listener]]
address = %q
`

// start runs the daemon with a configuration, and returns what the start cost.
func (g *growth) start(ctx context.Context, config string) (*instance, float64, error) {
	p := proxy{name: "cleversocks", command: []string{g.binary, "--config", "{config}"}, config: func(i *instance) string {
		return fmt.Sprintf(growthHead, i.address) + config
	}}
	i, err := p.start(ctx)
	if err != nil {
		return nil, 0, err
	}
	cpu, err := i.usage.cpuTime()
	if err != nil {
		i.stop()
		return nil, 0, err
	}
	return i, cpu.Seconds(), nil
}

// target is where a connection of a measurement goes, and as whom.
type target func() (name string, user string)

// burst opens, uses once and closes n connections, from as many clients at once
// as openers says, and returns processor time and p99 of one in microseconds.
func burst(ctx context.Context, i *instance, s *server, n int, next target) (cpu, p99 float64, err error) {
	before, err := i.usage.cpuTime()
	if err != nil {
		return 0, 0, err
	}
	var w workers
	var left atomic.Int64
	left.Store(int64(n))
	took := make([][]time.Duration, openers)
	for o := range openers {
		w.run(func() error {
			for left.Add(-1) >= 0 {
				name, user := next()
				begin := time.Now()
				c, err := dialAs(ctx, i.address, name, user, s.addr())
				if err != nil {
					return err
				}
				if err := useOnce(c, true); err != nil {
					return err
				}
				took[o] = append(took[o], time.Since(begin))
			}
			return nil
		})
	}
	if err := w.wait(); err != nil {
		return 0, 0, errors.Join(err, i.failure())
	}
	after, err := i.usage.cpuTime()
	all := slices.Concat(took...)
	slices.Sort(all)
	return micros(after-before) / float64(n), micros(all[len(all)*99/100]), err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// held is the memory of a process that had a moment to tidy up, in MiB.
func held(ctx context.Context, i *instance) (float64, error) {
	if err := pause(ctx, settle); err != nil {
		return 0, err
	}
	f, err := i.usage.footprint()
	return float64(f.anonymous+max(f.kernel, 0)) / (1 << 20), err
}

// measured is the rest of a point: memory, then connections.
func measured(ctx context.Context, i *instance, load float64, next target) (p point, err error) {
	const connections = 8000
	p.load = load
	s, err := serve(echo)
	if err != nil {
		return p, err
	}
	defer s.close()
	if _, _, err = burst(ctx, i, s, connections/4, next); err != nil { // what the first ones cost
		return p, err
	}
	if p.connect, p.p99, err = burst(ctx, i, s, connections, next); err != nil {
		return p, err
	}
	p.memory, err = held(ctx, i)
	return p, err
}

func nobody() (name, user string) { return "", "" }

func growTunnels(ctx context.Context, g *growth, n int) (p point, err error) {
	i, _, err := g.start(ctx, "[limits]\nmax_connections = 10000\n")
	if err != nil {
		return p, err
	}
	defer i.stop()
	s, err := serve(echo)
	if err != nil {
		return p, err
	}
	defer s.close()
	conns, err := dialMany(ctx, i, s, n)
	defer func() { closeAll(conns) }()
	if err != nil {
		return p, err
	}
	for _, c := range conns {
		if err := useOnce(c, false); err != nil {
			return p, err
		}
	}
	if p.memory, err = held(ctx, i); err != nil {
		return p, err
	}
	if p.connect, _, err = burst(ctx, i, s, 4000, nobody); err != nil {
		return p, err
	}
	values, err := roundTrips("echo", 16)(ctx, options{duration: time.Second}, i)
	for _, v := range values {
		if v.name == "echo.p99" {
			p.p99 = v.number
		}
	}
	return p, err
}

// address is that of the n-th network, none of them the destination's.
func address(n int) string { return fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255) }

// grow measures with a configuration.
func (g *growth) grow(ctx context.Context, config string, next target) (point, error) {
	i, load, err := g.start(ctx, config)
	if err != nil {
		return point{}, err
	}
	defer i.stop()
	return measured(ctx, i, load, next)
}

// denyRules are n tables of rules that deny a port of a network each.
func denyRules(n int) string {
	var config strings.Builder
	for i := range n {
		fmt.Fprintf(&config, "[[acl.rule]]\naction = \"deny\"\nto = [\"%s/32\"]\nports = [25]\n", address(i))
	}
	return config.String()
}

func growRules(ctx context.Context, g *growth, n int) (point, error) {
	return g.grow(ctx, denyRules(n), nobody)
}

func growList(ctx context.Context, g *growth, n int) (point, error) {
	var list strings.Builder
	for i := range n {
		if i%2 == 0 {
			fmt.Fprintf(&list, "%s/32\n", address(i))
		} else {
			fmt.Fprintf(&list, "*.h%d.example\n", i)
		}
	}
	path := filepath.Join(g.dir, "list")
	if err := os.WriteFile(path, []byte(list.String()), 0o600); err != nil {
		return point{}, err
	}
	return g.grow(ctx, fmt.Sprintf("[[acl.rule]]\naction = \"deny\"\nto = [\"file:%s\"]\n", path), nobody)
}

func growUsers(ctx context.Context, g *growth, n int) (point, error) {
	var config strings.Builder
	for i := range n {
		fmt.Fprintf(&config, "[[user]]\nname = \"user%d\"\npassword = \"user%d\"\nmax_connections = 100\n", i, i)
	}
	return g.grow(ctx, config.String(), func() (name, user string) { return "", fmt.Sprintf("user%d", rand.IntN(n)) })
}

// growNames fills the cache first: its connections are not counted.
func growNames(ctx context.Context, g *growth, n int) (p point, err error) {
	names, stop, err := serveNames()
	if err != nil {
		return p, err
	}
	defer stop()
	i, _, err := g.start(ctx, fmt.Sprintf("[resolver]\nservers = [\"udp://%s\"]\nfamily = \"ipv4\"\ncache = { size = 200000 }\n", names))
	if err != nil {
		return p, err
	}
	defer i.stop()
	s, err := serve(echo)
	if err != nil {
		return p, err
	}
	defer s.close()
	var next atomic.Int64
	if _, _, err := burst(ctx, i, s, n, func() (string, string) { return hostName(int(next.Add(1) - 1)), "" }); err != nil {
		return p, err
	}
	return measured(ctx, i, 0, func() (string, string) { return hostName(rand.IntN(n)), "" })
}
