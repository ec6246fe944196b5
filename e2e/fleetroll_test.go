package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// site is a fleet, each replica on a host of its own, behind haproxy, which tells
// the clients' addresses by the PROXY protocol and asks /readyz whom to send them to.
type site struct {
	t     *testing.T
	store *store
	echo  netip.AddrPort
	front string
	hosts []*host
	all   []*daemon
	plain string
}

// host is where a replica runs: a network namespace that a cable leads to.
type host struct {
	*behind
	address  string
	settings string // a file
}

const siteUsers = `
[auth]
allow_plain_passwords = true
once = { enabled = true }
[limits]
auth_failures = { max = 3, window = "1m", ban = "10m", ban_max = "1h" }
[drain]
delay = "1s"
timeout = "15s"
[[user]]
name = "alice"
password = "secret"
max_connections = 2000
quota = { bytes = "1GiB", period = "1h" }
[[user]]
name = "bob"
password = "secret"
max_connections = 3
[[user]]
name = "carol"
password = "secret"
`

func newHost(t *testing.T, i int) *host {
	t.Helper()
	near, far := fmt.Sprintf("host%d", i), fmt.Sprintf("wire%d", i)
	h := &host{behind: newNetwork(t, near, far), address: fmt.Sprintf("10.90.%d.2", i)}
	inNet(t, fmt.Sprintf("ip addr add 10.90.%d.1/24 dev %s", i, near))
	inNet(t, "ip link set "+near+" up")
	for _, c := range []string{"ip link set lo up", "ip addr add " + h.address + "/24 dev " + far, "ip link set " + far + " up", fmt.Sprintf("ip route add default via 10.90.%d.1", i)} {
		if out, err := h.run(strings.Fields(c)...); err != nil {
			t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
	return h
}

func newSite(t *testing.T, n int) *site {
	t.Helper()
	s := &site{t: t, store: startStore(t, true), echo: echoServer(t, "192.0.2.1:0"), front: freeAddress(t), plain: need.Plain(t), all: make([]*daemon, n)}
	_, storePort, _ := net.SplitHostPort(s.store.address)
	var servers strings.Builder
	for i := range n {
		h, name := newHost(t, i), string(rune('a'+i))
		fmt.Fprintf(&servers, "  server %s %s:1080 send-proxy-v2 check port 9180 inter 150ms fall 3 rise 1\n", name, h.address)
		toml := withAPI(t, siteUsers+fmt.Sprintf(`
[shared_state]
url = "redis://192.0.2.1:%s"
password_file = '%s'
replica = "%s"
timeout = "1s" # a machine that is busy answers late, and then each decides by itself
[[listener]]
address = "%s:1080"
proxy_protocol = "required"
trusted_proxies = ["10.90.%d.1"]
`, storePort, writeFile(t, "store.password", storePassword), name, h.address, i))
		toml = strings.Replace(toml, `address = "127.0.0.1:0"`, fmt.Sprintf("address = \"%s:9180\"", h.address), 1)
		h.settings = writeFile(t, "cleversocks.toml", toml)
		s.hosts = append(s.hosts, h)
		s.run(i)
	}
	for i := range n {
		eventually(t, "all know each other", func() bool { return s.all[i].metric("cleversocks_shared_replicas") == strconv.Itoa(n) })
	}
	haproxy(t, "frontend front\n  bind "+s.front+"\n  default_backend fleet\nbackend fleet\n  balance roundrobin\n  timeout check 5s\n  option httpchk GET /readyz\n  option redispatch 1\n  retries 3\n"+servers.String())
	eventually(t, "haproxy serves", func() bool {
		c, err := net.Dial("tcp", s.front)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return s
}

// run starts a replica, or its next process.
func (s *site) run(i int) {
	s.t.Helper()
	cmd := exec.Command("nsenter", "-t", s.hosts[i].pid, "-n", s.plain, "--config", s.hosts[i].settings, "--log-format", "json")
	cmd.Env = append(os.Environ(), "CLEVERSOCKS_LOG__ACCESS=denied")
	s.all[i] = startCommand(s.t, cmd)
}

// dial comes to haproxy from an address.
func (s *site) dial(source string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := dialer.Dial("tcp", s.front)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c, nil
}

// visit is one connection of a user, from one of many addresses, that moves some
// bytes there and back for a while.
func (s *site) visit(n int, user string, turns int, pause time.Duration) error {
	c, err := s.dial(fmt.Sprintf("127.1.%d.%d", n>>8, n&255))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := socksTo(c, user, s.echo); err != nil {
		return err
	}
	word, got := []byte("0123456789abcdef"), make([]byte, 16)
	for range turns {
		if _, err := c.Write(word); err != nil {
			return fmt.Errorf("lost: %w", err)
		}
		if _, err := io.ReadFull(c, got); err != nil || string(got) != string(word) {
			return fmt.Errorf("lost: %q %w", got, err)
		}
		if pause > 0 {
			timer := time.NewTimer(pause)
			<-timer.C
		}
	}
	return nil
}

// Under load, with tunnels open, one replica after the other is replaced, by
// another process after its drain or by an upgrade in place: no connection is
// lost or refused, and what the fleet knows holds all the time.
func TestFleetRolls(t *testing.T) {
	s := newSite(t, 3)
	const bad, known = "127.0.0.5", "127.0.0.6"
	s.all[0].call("POST", "/api/v1/bans", object{"source": bad, "duration": "5m"}, nil)
	eventually(t, "it is banned", func() bool { return s.isBanned(bad) == nil })
	c, err := s.dial(known)
	if err == nil {
		err = socksTo(c, "carol", s.echo)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "she is known by each", func() bool {
		for range s.all { // which take turns
			if s.comesFree(known) != nil {
				return false
			}
		}
		return true
	})
	visits := startLoad(2*time.Millisecond, s.kinds()...)
	var others sync.WaitGroup
	stop := make(chan struct{})
	again := func(what string, f func() error) {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(); err != nil {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	for n := range 10 {
		again("a tunnel of a second", func() error { return s.visit(n, "alice", 20, 50*time.Millisecond) })
	}
	again("who is banned", func() error { return s.isBanned(bad) })
	again("who has logged in before", func() error { return s.comesFree(known) })
	bobs := &crowd{site: s, most: 3}
	for range 6 {
		again("bob", bobs.comes)
	}
	for i := range s.all {
		s.all[i].signal(syscall.SIGTERM)
		if code := s.all[i].exitCode(); code != 0 {
			t.Errorf("replica %d: exit status %d", i, code)
		}
		s.run(i)
		eventually(t, "it is back", func() bool { return s.all[i].metric("cleversocks_shared_replicas") == "3" })
	}
	for i := range s.all {
		lineageOf(s.all[i]).upgrade()
	}
	close(stop)
	others.Wait()
	visits.end(t)
	t.Logf("%d connections, %d of bob's, %d at once at most; %d refused", visits.made.Load(), bobs.came, bobs.highest, bobs.refused)
	var list []struct{ Source string }
	if s.all[2].call("GET", "/api/v1/bans", nil, &list); len(list) != 1 || list[0].Source != bad+"/32" {
		t.Errorf("the ban did not live through it: %v", list)
	}
	for _, user := range []string{"alice", "bob"} {
		eventually(t, "every connection is given back", func() bool { return s.store.sum(user) == 0 })
	}
	bobs.fill(9)
	moved := int64(visits.made.Load()) * 32
	if left := quotaLeft(&replica{daemon: s.all[1]}, "alice"); left > 1<<30-moved {
		t.Errorf("the quota has %d bytes left, %d were moved at least", left, moved)
	}
}

func (s *site) kinds() (kinds []func() error) {
	for n := range 256 {
		kinds = append(kinds, func() error { return s.visit(256+n, "alice", 1, 0) })
	}
	return kinds
}

// isBanned is an error if a source is let in, even to be asked who it is.
func (s *site) isBanned(source string) error {
	c, err := s.dial(source)
	if err != nil {
		return nil
	}
	defer c.Close()
	_, _ = c.Write([]byte{5, 1, 2})
	if n, err := c.Read(make([]byte, 2)); err == nil {
		return fmt.Errorf("%d bytes are answered", n)
	}
	return nil
}

// comesFree is an error if a source is not let in without a password.
func (s *site) comesFree(source string) error {
	c, err := s.dial(source)
	if err != nil {
		return err
	}
	defer c.Close()
	method := make([]byte, 2)
	_, _ = c.Write([]byte{5, 1, 0})
	if _, err := io.ReadFull(c, method); err != nil || method[1] != 0 {
		return fmt.Errorf("method % x: %w", method, err)
	}
	return nil
}

// crowd is a user who comes more often than he may, and holds a connection for a
// moment when he is let in.
type crowd struct {
	site *site
	most int

	mu                          sync.Mutex
	now, highest, came, refused int
}

// comes is an error if more are there than may be.
func (w *crowd) comes() error {
	c, err := w.site.dial("127.0.0.1")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := socksTo(c, "bob", w.site.echo); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refused++
		if !errors.Is(err, errNotAllowed) {
			return err
		}
		return nil
	}
	w.mu.Lock()
	w.now++
	w.came++
	w.highest = max(w.highest, w.now)
	n := w.now
	w.mu.Unlock()
	timer := time.NewTimer(30 * time.Millisecond)
	<-timer.C
	w.mu.Lock()
	w.now--
	w.mu.Unlock()
	if n > w.most {
		return fmt.Errorf("%d are there, he may have %d", n, w.most)
	}
	return nil
}

// fill has him come n times at once, and stay: all that he may have, no more.
func (w *crowd) fill(n int) {
	w.site.t.Helper()
	hold := make(chan struct{})
	results := make(chan error)
	for range n {
		go func() {
			c, err := w.site.dial("127.0.0.1")
			if err == nil {
				defer c.Close()
				err = socksTo(c, "bob", w.site.echo)
			}
			results <- err
			<-hold
		}()
	}
	admitted := 0
	for range n {
		if err := <-results; err == nil {
			admitted++
		}
	}
	close(hold)
	if admitted != w.most {
		w.site.t.Errorf("%d of bob's connections, he may have %d", admitted, w.most)
	}
}

// errNotAllowed is the reply of a user who has too many connections.
var errNotAllowed = errors.New("not allowed")

// socksTo logs in and connects.
func socksTo(c net.Conn, user string, to netip.AddrPort) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	hello := append([]byte{5, 1, 2, 1, byte(len(user))}, user...)
	hello = append(append(hello, 6), "secret"...)
	ip := to.Addr().As4()
	hello = append(hello, 5, 1, 0, 1, ip[0], ip[1], ip[2], ip[3], byte(to.Port()>>8), byte(to.Port()))
	if _, err := c.Write(hello); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	answer := make([]byte, 2+2+10)
	if _, err := io.ReadFull(c, answer); err != nil {
		return fmt.Errorf("answer % x: %w", answer, err)
	}
	if answer[1] != 2 || answer[3] != 0 || answer[5] != 0 {
		if answer[5] == notAllowed {
			return errNotAllowed
		}
		return fmt.Errorf("refused: % x", answer)
	}
	return nil
}
