package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// store is a running redis-server, with a password.
type store struct {
	t       *testing.T
	address string
	dir     string
	args    []string // more of them
	pass    string   // its password
	cmd     *exec.Cmd
}

const storePassword = "the store's password"

// startStore runs one on an address, or reserves the address for a later start.
func startStore(t *testing.T, now bool) *store {
	t.Helper()
	program(t, "redis-server", "redis-server")
	s := &store{t: t, address: freeAddress(t), dir: t.TempDir(), pass: storePassword}
	if now {
		s.start()
	}
	t.Cleanup(s.kill)
	return s
}

// freeAddress is one that nobody listens on, and stays so while a server is down.
func freeAddress(t *testing.T) string {
	t.Helper()
	return need.Free(t).String()
}

func (s *store) start() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	s.cmd = exec.Command("redis-server", append([]string{
		"--bind", "127.0.0.1", "192.0.2.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", s.dir,
		"--requirepass", s.pass, "--loglevel", "warning",
	}, s.args...)...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the store answers", func() bool {
		_, err := s.ask("PING")
		return err == nil || strings.Contains(err.Error(), "LOADING")
	})
}

func (s *store) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends it as the kernel would.
func (s *store) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// ask sends a command, in the protocol's inline form, and returns the elements
// of its answer.
func (s *store) ask(command string) ([]string, error) {
	c, err := net.DialTimeout("tcp", s.address, time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if s.pass != "" {
		command = fmt.Sprintf("AUTH \"%s\"\r\n%s", s.pass, command)
	}
	fmt.Fprintf(c, "%s\r\n", command)
	r := bufio.NewReader(c)
	if s.pass != "" {
		if first, err := r.ReadString('\n'); err != nil || first[0] != '+' {
			return nil, fmt.Errorf("%w: %s", io.ErrUnexpectedEOF, first)
		}
	}
	return readRESP(r)
}

// must is ask that has to be answered well.
func (s *store) must(commands ...string) {
	s.t.Helper()
	for _, command := range commands {
		if _, err := s.ask(command); err != nil {
			s.t.Fatalf("%s: %v", command, err)
		}
	}
}

// readRESP is an answer of RESP2, flat.
func readRESP(r *bufio.Reader) ([]string, error) {
	head, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	head = strings.TrimSpace(head)
	n, _ := strconv.Atoi(head[1:])
	switch head[0] {
	case '-':
		return nil, fmt.Errorf("the store says %s", head)
	case '$':
		if n < 0 {
			return nil, nil
		}
		text := make([]byte, n+2)
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, err
		}
		return []string{string(text[:n])}, nil
	case '*':
		var all []string
		for range n {
			one, err := readRESP(r)
			if err != nil {
				return nil, err
			}
			all = append(all, one...)
		}
		return all, nil
	}
	return []string{head[1:]}, nil
}

// sum is how many connections of a user the store knows.
func (s *store) sum(user string) int {
	all, err := s.ask("HGETALL cs:{u:" + user + "}:conns")
	if err != nil {
		return -1
	}
	sum := 0
	for i := 0; i+1 < len(all); i += 2 {
		var count, lease int64
		if _, err := fmt.Sscanf(all[i+1], "%d:%d", &count, &lease); err == nil && time.Now().UnixMilli() < lease {
			sum += int(count)
		}
	}
	return sum
}

const fleetUsers = `
[auth]
allow_plain_passwords = true
once = { enabled = true }
[limits]
auth_failures = { max = 3, window = "1m", ban = "10m", ban_max = "1h" }
[[user]]
name = "alice"
password = "secret"
max_connections = 10
[[user]]
name = "bob"
password = "secret"
quota = { bytes = "1MiB", period = "1h" }
[[user]]
name = "carol"
password = "secret"
max_addresses = 2
[[user]]
name = "dave"
password = "secret"
`

// replica is a daemon of a fleet, whose settings can be rewritten.
type replica struct {
	*daemon
	file, name string
	password   string // the file with the store's
}

// fleetSettings are a replica's.
func fleetSettings(t *testing.T, storeAt, password, name, users, timeout string) string {
	t.Helper()
	return withAPI(t, users+fmt.Sprintf(`
[shared_state]
url = "redis://%s"
password_file = '%s'
replica = "%s"
timeout = "%s"
[[listener]]
address = "127.0.0.1:0"
`, storeAt, password, name, timeout))
}

// How long a replica waits for the store, which is for the race detector and for busy
// machines: after that it decides by itself, and lets in more than the caps allow.
const (
	soon    = "100ms" // where the store is in trouble
	patient = "1s"    // where it is not
)

func startReplica(t *testing.T, storeAt, name, users, timeout string) *replica {
	t.Helper()
	password := writeFile(t, "store.password", storePassword)
	file := writeFile(t, "cleversocks.toml", fleetSettings(t, storeAt, password, name, users, timeout))
	return &replica{startProgram(t, "--config", file, "--log-format", "json"), file, name, password}
}

// startFleet starts replicas that know each other.
func startFleet(t *testing.T, storeAt string, n int) []*replica {
	t.Helper()
	all := make([]*replica, n)
	for i := range all {
		all[i] = startReplica(t, storeAt, string(rune('a'+i)), fleetUsers, patient)
	}
	for _, r := range all {
		eventually(t, "all know each other", func() bool { return r.metric("cleversocks_shared_replicas") == strconv.Itoa(n) })
	}
	return all
}

// whileInTime asks what holds while the store answers in time. Where it was late, as it
// may be on a busy machine, a replica has decided by itself, and judge is asked again;
// what it opens it closes. It says what is wrong, or "".
func whileInTime(t *testing.T, all []*replica, judge func() string) {
	t.Helper()
	alone := func() (n int) {
		for _, r := range all {
			decisions, _ := strconv.Atoi(r.metric("cleversocks_shared_alone_total"))
			n += decisions
		}
		return n
	}
	eventually(t, "the store is in time", func() bool {
		before := alone()
		wrong := judge()
		if alone() != before {
			return false
		}
		if wrong != "" {
			t.Error(wrong)
		}
		return true
	})
}

// tunnel tries to have a user's tunnel to a target; nil: it was refused, by the
// reply that is returned.
func tunnel(t *testing.T, d *daemon, source, user string, to netip.AddrPort) (net.Conn, byte) {
	t.Helper()
	c := login(t, d.address, source, user, "secret")
	if reply := request(t, c, 1, to); reply != succeeded {
		c.Close()
		return nil, reply
	}
	return c, succeeded
}

// mustTunnel is tunnel that has to succeed.
func mustTunnel(t *testing.T, d *daemon, source, user string, to netip.AddrPort) net.Conn {
	t.Helper()
	c, reply := tunnel(t, d, source, user, to)
	if c == nil {
		t.Fatalf("%s is refused: reply %d", user, reply)
	}
	return c
}

// over waits for a tunnel's end.
func over(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || isTimeout(err) {
		t.Errorf("the tunnel goes on: %d, %v", n, err)
	}
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded)
}
