package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// chaos is a fleet and its store, to which bad things happen by chance.
type chaos struct {
	t      *testing.T
	random *rand.Rand
	store  *store
	way    *toxiproxy.Proxy // from the replicas to the store
	echo   netip.AddrPort
	all    []*replica
	open   []chaosTunnel
	bans   []ban
	next   int
	did    []string
	frozen bool // a replica was, beyond its lease: that takes its time
}

// chaosTunnel is a tunnel, and the replica that it goes through.
type chaosTunnel struct {
	replica *replica
	c       net.Conn
}

type ban struct {
	source string
	by     *replica
}

// chaosCap is more than ever are open: nobody may be refused.
const (
	chaosCap  = 30
	chaosOpen = 12
)

const chaosUsers = `
[auth]
allow_plain_passwords = true
[limits]
auth_failures = { max = 3, window = "1m", ban = "10m", ban_max = "1h" }
[[user]]
name = "alice"
password = "secret"
max_connections = 30
`

// Whatever becomes of the store, of the way there and of replicas, nobody is
// refused for it and no tunnel is lost but those of a replica that goes; and when
// all is well again, sums, caps and bans are right everywhere.
// CLEVERSOCKS_CHAOS=17-40 runs these seeds, in the place of some.
func TestFleetChaos(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), uint64(3)
	if more := os.Getenv("CLEVERSOCKS_CHAOS"); more != "" {
		if _, err := fmt.Sscanf(more, "%d-%d", &first, &last); err != nil {
			t.Fatal(err)
		}
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { t.Parallel(); runChaos(t, seed) })
	}
}

func runChaos(t *testing.T, seed uint64) {
	t.Helper()
	c := &chaos{t: t, random: rand.New(rand.NewPCG(seed, 0)), store: startStore(t, true), echo: echoServer(t, "127.0.0.1:0")}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	c.way = toxiproxy.NewProxy(server, "store", freeAddress(t), c.store.address)
	if err := c.way.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.way.Stop)
	for i := range 3 {
		c.all = append(c.all, startReplica(t, c.way.Listen, string(rune('a'+i)), chaosUsers, soon))
	}
	c.know()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d: %s", seed, strings.Join(c.did, ", "))
		}
	}()
	for range 40 {
		c.step()
	}
	c.heal()
	c.judge()
}

// know waits until the replicas know each other.
func (c *chaos) know() {
	c.t.Helper()
	for _, r := range c.all {
		eventually(c.t, "all know each other", func() bool { return r.metric("cleversocks_shared_replicas") == "3" })
	}
}

func (c *chaos) note(format string, args ...any) { c.did = append(c.did, fmt.Sprintf(format, args...)) }

func (c *chaos) wait(least, most int) {
	timer := time.NewTimer(time.Duration(least+c.random.IntN(most-least)) * time.Millisecond)
	<-timer.C
}

func (c *chaos) step() {
	c.t.Helper()
	r := c.all[c.random.IntN(len(c.all))]
	switch n := c.random.IntN(18); {
	case n < 6 && len(c.open) < chaosOpen:
		c.note("open at %s", r.name)
		c.open = append(c.open, chaosTunnel{r, mustTunnel(c.t, r.daemon, "127.0.0.1", "alice", c.echo)})
	case n < 9 && len(c.open) > 0:
		i := c.random.IntN(len(c.open))
		c.note("close at %s", c.open[i].replica.name)
		c.open[i].c.Close()
		c.open = slices.Delete(c.open, i, i+1)
	case n == 9:
		c.note("freeze the store")
		c.store.signal(syscall.SIGSTOP)
		c.wait(50, 400)
		c.open = append(c.open, chaosTunnel{r, mustTunnel(c.t, r.daemon, "127.0.0.1", "alice", c.echo)})
		c.store.signal(syscall.SIGCONT)
	case n == 10:
		c.note("wipe the store")
		if _, err := c.store.ask("FLUSHALL"); err != nil {
			c.t.Fatal(err)
		}
	case n == 11:
		c.note("kill the store")
		c.store.kill()
		c.wait(50, 300)
		c.open = append(c.open, chaosTunnel{r, mustTunnel(c.t, r.daemon, "127.0.0.1", "alice", c.echo)})
		c.store.start()
	case n == 12:
		c.slow(c.random.IntN(150))
	case n == 13:
		c.note("freeze %s", r.name)
		r.signal(syscall.SIGSTOP)
		c.wait(50, 400)
		r.signal(syscall.SIGCONT)
	case n == 14:
		c.replace(r)
	case n == 15:
		c.retire(r)
	case n == 16:
		c.outlast(r)
	default:
		c.next++
		source := fmt.Sprintf("198.51.100.%d", c.next)
		c.note("ban %s at %s", source, r.name)
		r.call("POST", "/api/v1/bans", object{"source": source, "duration": "10m"}, nil)
		c.bans = append(c.bans, ban{source, r})
	}
}

// slow has each answer of the store come ms later; 0: at once.
func (c *chaos) slow(ms int) {
	c.t.Helper()
	c.note("the way takes %d ms", ms)
	c.way.Toxics.ResetToxics(c.t.Context())
	if ms == 0 {
		return
	}
	toxic := fmt.Sprintf(`{"name": "slow", "type": "latency", "stream": "downstream", "attributes": {"latency": %d, "jitter": %d}}`, ms, ms/4)
	if _, err := c.way.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		c.t.Fatal(err)
	}
}

// replace kills a replica, and starts another in its place.
func (c *chaos) replace(r *replica) {
	c.t.Helper()
	c.note("kill %s", r.name)
	_ = r.Cmd.Process.Kill()
	c.succeed(r)
}

// retire ends a replica in peace, and starts another in its place.
func (c *chaos) retire(r *replica) {
	c.t.Helper()
	c.note("end %s", r.name)
	for _, h := range c.open {
		if h.replica == r {
			h.c.Close() // or it would wait for them
		}
	}
	r.signal(syscall.SIGTERM)
	c.succeed(r)
}

// succeed starts a replica in the place of one that ends.
func (c *chaos) succeed(r *replica) {
	c.t.Helper()
	<-r.Exited
	c.open = slices.DeleteFunc(c.open, func(h chaosTunnel) bool { return h.replica == r })
	// What it had not told anybody yet is gone with it.
	c.bans = slices.DeleteFunc(c.bans, func(b ban) bool { return b.by == r })
	i := slices.Index(c.all, r)
	c.all[i] = &replica{startProgram(c.t, "--config", r.file, "--log-format", "json"), r.file, r.name, r.password}
}

// outlast freezes a replica for longer than its leases last.
func (c *chaos) outlast(r *replica) {
	c.t.Helper()
	if c.frozen {
		return
	}
	c.frozen = true
	c.note("freeze %s beyond its lease", r.name)
	r.signal(syscall.SIGSTOP)
	for range 4 {
		c.wait(2800, 2900)
		for _, other := range c.all {
			if other != r && len(c.open) < chaosOpen {
				c.open = append(c.open, chaosTunnel{other, mustTunnel(c.t, other.daemon, "127.0.0.1", "alice", c.echo)})
			}
		}
	}
	r.signal(syscall.SIGCONT)
}

// heal makes all well.
func (c *chaos) heal() {
	c.t.Helper()
	c.slow(0)
	for _, r := range c.all {
		eventually(c.t, "it is not degraded", func() bool { _, body := r.get("/readyz"); return strings.TrimSpace(body) == "ready" })
	}
	c.know()
}

// judge asks what must be right in the end.
func (c *chaos) judge() {
	c.t.Helper()
	for i, h := range c.open {
		_ = h.c.SetDeadline(time.Now().Add(patience))
		echoes(c.t, h.c, fmt.Sprint("still there ", i))
	}
	for _, r := range c.all {
		for _, b := range c.bans {
			eventually(c.t, b.source+" is banned at "+r.name, func() bool {
				var list []struct{ Source string }
				r.call("GET", "/api/v1/bans", nil, &list)
				return slices.ContainsFunc(list, func(l struct{ Source string }) bool { return l.Source == b.source+"/32" })
			})
		}
	}
	whileInTime(c.t, c.all, func() string {
		eventually(c.t, "the sum is right", func() bool { return c.store.sum("alice") == len(c.open) })
		var more []net.Conn
		for i := range chaosCap + 3 {
			if x, _ := tunnel(c.t, c.all[i%3].daemon, "127.0.0.1", "alice", c.echo); x != nil {
				more = append(more, x)
			}
		}
		for _, x := range more {
			x.Close()
		}
		if len(c.open)+len(more) != chaosCap {
			return fmt.Sprintf("%d connections, and %d more: the cap is %d", len(c.open), len(more), chaosCap)
		}
		return ""
	})
}
