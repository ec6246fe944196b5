package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// socketOptions are what the kernel has for a socket. Without keepalive its times
// are 0: they mean nothing.
type socketOptions struct {
	NoDelay, Urgent                  bool // TCP_NODELAY, SO_OOBINLINE
	KeepAlive, Idle, Interval, Count int
	Congestion                       string
}

// optionsOf are those of a process's TCP socket between two addresses; false: it has
// none such at the moment. A tunnel's descriptors change while it lasts.
func optionsOf(t *testing.T, pid int, local, peer net.Addr) (o socketOptions, found bool) {
	t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(process)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, n)); err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		fd, err := unix.PidfdGetfd(process, n, 0)
		if err != nil {
			continue // closed by now
		}
		found = isBetween(fd, local, peer)
		if found {
			o = readOptions(fd)
		}
		unix.Close(fd)
		if found {
			return o, true
		}
	}
	return o, false
}

func isBetween(fd int, local, peer net.Addr) bool {
	is := func(get func(int) (unix.Sockaddr, error), want net.Addr) bool {
		sa, err := get(fd)
		four, ok := sa.(*unix.SockaddrInet4)
		return err == nil && ok && netip.AddrPortFrom(netip.AddrFrom4(four.Addr), uint16(four.Port)).String() == want.String()
	}
	return is(unix.Getpeername, peer) && is(unix.Getsockname, local)
}

func readOptions(fd int) socketOptions {
	get := func(level, option int) int {
		n, _ := unix.GetsockoptInt(fd, level, option)
		return n
	}
	name, _ := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	o := socketOptions{
		NoDelay: get(unix.IPPROTO_TCP, unix.TCP_NODELAY) != 0, Urgent: get(unix.SOL_SOCKET, unix.SO_OOBINLINE) != 0,
		Congestion: strings.TrimRight(name, "\x00"), KeepAlive: get(unix.SOL_SOCKET, unix.SO_KEEPALIVE),
	}
	if o.KeepAlive != 0 {
		o.Idle, o.Interval, o.Count = get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	}
	return o
}

// way is a tunnel through the daemon, as its client and its server have it.
type way struct {
	name           string
	client, server net.Conn
}

// wantOptions waits until both of the daemon's sockets of each tunnel have the
// options: the server's gets its probes when the tunnel has lasted a moment.
func wantOptions(t *testing.T, pid int, want socketOptions, tunnels []way) {
	t.Helper()
	for _, tun := range tunnels {
		for side, c := range map[string]net.Conn{"client": tun.client, "server": tun.server} {
			var got socketOptions
			var found bool
			for until := time.Now().Add(patience); time.Now().Before(until); <-time.After(20 * time.Millisecond) {
				if got, found = optionsOf(t, pid, c.RemoteAddr(), c.LocalAddr()); got == want {
					break
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, the %s's socket (found: %v):\n%s", tun.name, side, found, diff)
			}
		}
	}
}

// optionsRig is a daemon, and what its tunnels lead to.
type optionsRig struct {
	t        *testing.T
	server   netip.AddrPort
	accepted chan *net.TCPConn // at the server, or at the HTTP parent, or BIND's peer
	names    int
}

func newOptionsRig(t *testing.T) *optionsRig {
	t.Helper()
	r := &optionsRig{t: t, accepted: make(chan *net.TCPConn, 16)}
	r.server = tcpServer(t, "127.0.0.1:0", func(c *net.TCPConn) {
		r.accepted <- c
		_, _ = io.Copy(c, c)
	})
	return r
}

// parent is a proxy that says yes and sends back what it gets.
func (r *optionsRig) parent() netip.AddrPort {
	return tcpServer(r.t, "127.0.0.1:0", func(c *net.TCPConn) {
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		r.accepted <- c
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(c, in)
	})
}

// through is a tunnel by name, once c has its reply.
func (r *optionsRig) through(name string, c net.Conn, code byte) way {
	r.t.Helper()
	if code != succeeded {
		r.t.Fatalf("%s: reply %d", name, code)
	}
	echoes(r.t, c, "hello")
	return way{name, c, <-r.accepted}
}

// fresh is a name that nobody has looked up.
func (r *optionsRig) fresh() string {
	r.names++
	return fmt.Sprintf("n%d.example", r.names)
}

func (r *optionsRig) byAddress(name, proxy string) way {
	r.t.Helper()
	c, code := connect(r.t, proxy, r.server)
	return r.through(name, c, code)
}

func (r *optionsRig) byName(name, proxy, host string) way {
	r.t.Helper()
	c, code := connectName(r.t, proxy, host, r.server.Port())
	return r.through(name, c, code)
}

func (r *optionsRig) byPassword(name, proxy string) way {
	r.t.Helper()
	c := login(r.t, proxy, "127.0.0.1", "alice", "secret")
	return r.through(name, c, request(r.t, c, 1, r.server))
}

func (r *optionsRig) bySOCKS4a(name, proxy, host string) way {
	r.t.Helper()
	c := dialProxy(r.t, proxy)
	send(r.t, c, append([]byte{4, 1, byte(r.server.Port() >> 8), byte(r.server.Port()), 0, 0, 0, 1, 0}, host+"\x00"...)...)
	if got := receive(r.t, c, 8); got[1] != 90 {
		r.t.Fatalf("%s: % x", name, got)
	}
	return r.through(name, c, succeeded)
}

func (r *optionsRig) byCONNECT(name, proxy, to string) way {
	r.t.Helper()
	c := dialProxy(r.t, proxy)
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\n\r\n", to)
	const yes = "HTTP/1.1 200"
	if got := string(receive(r.t, c, len(yes))); got != yes {
		r.t.Fatalf("%s: %s", name, got)
	}
	for end := ""; !strings.HasSuffix(end, "\r\n\r\n"); end += string(receive(r.t, c, 1)) {
	}
	return r.through(name, c, succeeded)
}

func (r *optionsRig) byBIND(name, proxy string) way {
	r.t.Helper()
	c, code, at := askBind(r.t, proxy, netip.MustParseAddr("127.0.0.2"))
	if code != succeeded {
		r.t.Fatalf("%s: reply %d", name, code)
	}
	peer, err := connectFrom(r.t, "127.0.0.2", at)
	if err != nil {
		r.t.Fatal(err)
	}
	if code, _ = bindReply(r.t, c); code != succeeded {
		r.t.Fatalf("%s: second reply %d", name, code)
	}
	return way{name, c, peer}
}

func (r *optionsRig) byUpstream(name, proxy string) way {
	r.t.Helper()
	c, code := connectName(r.t, proxy, "via.parent.example", 80)
	return r.through(name, c, code)
}

// inheriting starts the daemon as systemd would, with listening sockets.
func inheriting(t *testing.T, names string, sockets []*os.File, args ...string) *daemon {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary}, args...)...)
	cmd.Env = []string{"LISTEN_FDS=" + strconv.Itoa(len(sockets)), "LISTEN_FDNAMES=" + names}
	cmd.ExtraFiles = sockets
	return startCommand(t, cmd)
}

// listening is a socket to pass on, and its address.
func listening(t *testing.T) (*os.File, string) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, l.Addr().String()
}

// TestOptionsOfEverySocket: whatever way a connection takes through the daemon, both
// of its sockets have the keepalive, TCP_NODELAY and congestion control of the
// settings. Package net sets the first two as it likes where it is given a socket,
// so that it had probes every 15 seconds after a log-in, a look-up or an upgrade: the
// batteries of phones paid for it.
func TestOptionsOfEverySocket(t *testing.T) {
	r := newOptionsRig(t)
	names := serveDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(a)
	})
	hash, parent := cheapHash(t, "secret"), r.parent()
	first, plain := listening(t)
	second, door := listening(t)
	own := "127.0.0.1:" + freePort(t)
	const long = `{ idle = "300s", interval = "7s", count = 3 }`
	settings := func(keepalive, rest string) string {
		return fmt.Sprintf(`[relay]
keepalive = %s
%s
[auth]
required = false
[admin]
address = "127.0.0.1:0"
[resolver]
servers = ["udp://%s"]
[[user]]
name = "alice"
password_hash = %q
[[upstream]]
name = "parent"
via = ["http://%s"]
[[forward]]
to = ["*.parent.example"]
upstream = "parent"
[[listener]]
address = %q
[[listener]]
address = "systemd:plain"
[[listener]]
address = "systemd:door"
proxy_protocol = "optional"
trusted_proxies = ["127.0.0.1"]
`, keepalive, rest, names, hash, parent, own)
	}
	config := writeFile(t, "c.toml", settings(long, "nodelay = false\ncongestion = \"cubic\""))
	d := lineageOf(inheriting(t, "plain:door", []*os.File{first, second}, "--config", config, "--log-format", "json"))
	want := socketOptions{Urgent: true, KeepAlive: 1, Idle: 300, Interval: 7, Count: 3, Congestion: "cubic"}
	ways := func(when string) []way {
		known := r.fresh()
		return []way{
			r.byAddress(when+"address", own), r.byName(when+"name that is looked up", own, known), r.byName(when+"known name", own, known),
			r.byPassword(when+"password", own), r.byPassword(when+"known password", own),
			r.bySOCKS4a(when+"SOCKS4a", own, known), r.bySOCKS4a(when+"SOCKS4a, looked up", own, r.fresh()),
			r.byCONNECT(when+"CONNECT", own, r.server.String()), r.byCONNECT(when+"CONNECT, looked up", own, net.JoinHostPort(r.fresh(), strconv.Itoa(int(r.server.Port())))),
			r.byBIND(when+"BIND", own), r.byUpstream(when+"upstream", own),
			r.byAddress(when+"inherited socket", plain), r.byName(when+"inherited socket, looked up", plain, r.fresh()),
			r.byAddress(when+"inherited socket with a door", door),
		}
	}
	before := ways("")
	wantOptions(t, d.pid, want, before)

	rewrite(t, config, settings(`{ idle = "0s" }`, ""))
	d.tell(syscall.SIGHUP)
	d.waitLine("generation", "2")
	wantOptions(t, d.pid, socketOptions{NoDelay: true, Urgent: true, Congestion: "reno"}, ways("after a reload: "))
	wantOptions(t, d.pid, want, before[:1]) // connections keep what they began with

	rewrite(t, config, settings(long, "nodelay = false\ncongestion = \"cubic\""))
	old := d.pid
	d.upgrade()
	wantOptions(t, d.pid, want, ways("after an upgrade: "))
	wantOptions(t, old, want, before)
}
