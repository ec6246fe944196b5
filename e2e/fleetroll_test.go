package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// plainBinary is the program without the race detector, for tests with load.
var plainBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "cleversocks-plain")
	out, err := exec.Command("go", "build", "-o", path, "cleversocks/cmd/cleversocks").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, err
})

// site is a fleet behind haproxy, which tells the clients' addresses by the PROXY
// protocol and asks /readyz whom to send them to.
type site struct {
	t        *testing.T
	front    string
	settings []string // files
	all      []*daemon
	plain    string
}

const siteUsers = `
[auth]
allow_plain_passwords = true
[limits]
auth_failures = { max = 3, window = "1m", ban = "10m", ban_max = "1h" }
[drain]
delay = "400ms"
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
`

func newSite(t *testing.T, storeAt string, n int) *site {
	t.Helper()
	plain, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, front: freeAddress(t), plain: plain, all: make([]*daemon, n)}
	var servers strings.Builder
	for i := range n {
		address, admin, name := freeAddress(t), freeAddress(t), string(rune('a'+i))
		_, port, _ := net.SplitHostPort(admin)
		fmt.Fprintf(&servers, "  server %s %s send-proxy-v2 check port %s inter 50ms fall 1 rise 1\n", name, address, port)
		toml := withAPI(t, siteUsers+fmt.Sprintf(`
[shared_state]
url = "redis://%s"
password_file = '%s'
replica = "%s"
[[listener]]
address = "%s"
proxy_protocol = "required"
trusted_proxies = ["127.0.0.0/8"]
`, storeAt, writeFile(t, "store.password", storePassword), name, address))
		toml = strings.Replace(toml, `address = "127.0.0.1:0"`, fmt.Sprintf("address = %q", admin), 1)
		s.settings = append(s.settings, writeFile(t, "cleversocks.toml", toml))
		s.run(i)
	}
	for i := range n {
		eventually(t, "all know each other", func() bool { return s.all[i].metric("cleversocks_shared_replicas") == strconv.Itoa(n) })
	}
	haproxy(t, "frontend front\n  bind "+s.front+"\n  default_backend fleet\nbackend fleet\n  balance roundrobin\n  option httpchk GET /readyz\n  option redispatch 1\n  retries 3\n"+servers.String())
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
	cmd := exec.Command(s.plain, "--config", s.settings[i], "--log-format", "json")
	cmd.Env = append(os.Environ(), "CLEVERSOCKS_LOG__ACCESS=denied")
	s.all[i] = startCommand(s.t, cmd)
}

// visit is one connection of a user, from one of many addresses, that moves some
// bytes there and back for a while.
func (s *site) visit(n int, user string, to netip.AddrPort, turns int, pause time.Duration) error {
	source := net.IPv4(127, 1, byte(n>>8), byte(n))
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: source}}
	c, err := dialer.Dial("tcp", s.front)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer c.Close()
	if err := socksTo(c, user, to); err != nil {
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
// lost or refused, and what the fleet knows holds.
func TestFleetRolls(t *testing.T) {
	store := startStore(t, true)
	echo := echoServer(t, "127.0.0.1:0")
	s := newSite(t, store.address, 3)
	const bad = "127.0.0.5"
	s.all[0].call("POST", "/api/v1/bans", object{"source": bad, "duration": "5m"}, nil)
	visits := startLoad(2*time.Millisecond, s.kinds(echo)...)
	var long sync.WaitGroup
	stop := make(chan struct{})
	for n := range 10 {
		long.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.visit(n, "alice", echo, 20, 50*time.Millisecond); err != nil {
					t.Errorf("a tunnel of a second: %v", err)
				}
			}
		})
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
	long.Wait()
	visits.end(t)
	t.Logf("%d connections", visits.made.Load())
	var list []struct{ Source string }
	if s.all[2].call("GET", "/api/v1/bans", nil, &list); len(list) != 1 || list[0].Source != bad+"/32" {
		t.Errorf("the ban did not live through it: %v", list)
	}
	s.capHolds(echo)
	eventually(t, "every connection is given back", func() bool { return store.sum("alice") == 0 })
	moved := int64(visits.made.Load()) * 32
	if left := quotaLeft(&replica{daemon: s.all[1]}, "alice"); left > 1<<30-moved {
		t.Errorf("the quota has %d bytes left, %d were moved at least", left, moved)
	}
}

func (s *site) kinds(echo netip.AddrPort) (kinds []func() error) {
	for n := range 256 {
		kinds = append(kinds, func() error { return s.visit(256+n, "alice", echo, 1, 0) })
	}
	return kinds
}

// capHolds has bob come more often than he may.
func (s *site) capHolds(echo netip.AddrPort) {
	s.t.Helper()
	hold := make(chan struct{})
	results := make(chan error)
	for range 9 {
		go func() {
			dialer := net.Dialer{Timeout: patience}
			c, err := dialer.Dial("tcp", s.front)
			if err == nil {
				defer c.Close()
				err = socksTo(c, "bob", echo)
			}
			results <- err
			<-hold
		}()
	}
	admitted := 0
	for range 9 {
		if err := <-results; err == nil {
			admitted++
		}
	}
	close(hold)
	if admitted != 3 {
		s.t.Errorf("%d of bob's connections, he may have 3", admitted)
	}
}

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
		return fmt.Errorf("refused: % x", answer)
	}
	return nil
}
