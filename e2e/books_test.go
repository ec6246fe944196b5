package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// moved is bytes from and to clients.
type moved struct{ In, Out float64 }

func (m *moved) add(l line) {
	in, _ := l["bytes_in"].(float64)
	out, _ := l["bytes_out"].(float64)
	m.In, m.Out = m.In+in, m.Out+out
}

// books are all that a daemon says of what was moved, and by whom. The same is told in
// several places.
type books struct {
	Records, Usage, Relayed              moved // in all: access records, usage events, cleversocks_relay_bytes_total
	AliceRecords, AliceUsage, AliceMoved moved
	Connections, Accepted                int // access records, cleversocks_connections_accepted_total
	AliceGranted, AliceConnections       int
	Active                               float64 // connections, tunnels of alice and associations that are still there
}

// counted is the sum of a metric's series that have all of some text.
func counted(page, family string, having ...string) (sum float64) {
next:
	for l := range strings.Lines(page) {
		series, value, _ := strings.Cut(strings.TrimSpace(l), " ")
		if name, _, _ := strings.Cut(series, "{"); name != family {
			continue
		}
		for _, text := range having {
			if !strings.Contains(series, text) {
				continue next
			}
		}
		n, _ := strconv.ParseFloat(value, 64)
		sum += n
	}
	return sum
}

// bookkeeper is a usage endpoint.
type bookkeeper struct {
	mu     sync.Mutex
	events map[string]line
}

func (b *bookkeeper) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var batch struct{ Events []line }
	_ = json.NewDecoder(r.Body).Decode(&batch) // what is missing shows in the books
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range batch.Events {
		b.events[e.text("id")] = e
	}
}

// read is what the daemon's books say now.
func (b *bookkeeper) read(d *daemon) (all books) {
	for _, l := range d.Lines() {
		if l["msg"] != "connection" {
			continue
		}
		all.Connections++
		all.Records.add(line(l))
		if l["user"] == "alice" {
			all.AliceRecords.add(line(l))
			if l["command"] == "connect" && l["reply"] == "succeeded" {
				all.AliceGranted++
			}
		}
	}
	b.mu.Lock()
	for _, e := range b.events {
		if e["type"] == "usage" {
			all.Usage.add(e)
			if e["user"] == "alice" {
				all.AliceUsage.add(e)
			}
		}
	}
	b.mu.Unlock()
	_, page := d.get("/metrics")
	both := func(family string, having ...string) moved {
		return moved{counted(page, family, append(having, `direction="in"`)...), counted(page, family, append(having, `direction="out"`)...)}
	}
	all.Relayed, all.AliceMoved = both("cleversocks_relay_bytes_total"), both("cleversocks_user_bytes_total", `user="alice"`)
	all.Accepted = int(counted(page, "cleversocks_connections_accepted_total"))
	all.AliceConnections = int(counted(page, "cleversocks_user_connections_total", `user="alice"`))
	all.Active = counted(page, "cleversocks_connections_active") + counted(page, "cleversocks_user_connections_active") + counted(page, "cleversocks_udp_associations_active")
	return all
}

// agree is what the books have to be, going by the access records.
func (b books) agree() books {
	b.Usage, b.Relayed, b.Accepted, b.Active = b.Records, b.Records, b.Connections, 0
	b.AliceUsage, b.AliceMoved, b.AliceConnections = b.AliceRecords, b.AliceRecords, b.AliceGranted
	return b
}

// TestBooksAgree is a soak of a second: clients of many kinds that come, leave in any
// phase and stay over reloads. Access records, usage events and metrics then say the
// same of what was moved, and the daemon holds what it held before. In a soak of an
// hour the bytes that clients send ahead were in two of these books and not in the third.
func TestBooksAgree(t *testing.T) {
	keeper := &bookkeeper{events: make(map[string]line)}
	endpoint := httptest.NewServer(keeper)
	defer endpoint.Close()
	endpoint.Config.SetKeepAlivesEnabled(false) // a connection that waits for the next batch is one too many at the end
	toml := fmt.Sprintf(`
[limits]
exempt = ["127.0.0.0/8"]
[auth]
no_password_from = ["127.0.0.1"]
[[user]]
name = "alice"
password_hash = %q
quota = { bytes = "1GiB" }
[usage]
url = %q
interval = "1s"
`, cheapHash(t, "x"), endpoint.URL)
	d := start(t, toml)
	before := d.baseline()
	to, sink := echoServer(t, "127.0.0.1:0"), tcpServer(t, "127.0.0.1:0", func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprint(c, n)
	})
	datagrams := udpEcho(t, "127.0.0.1:0")
	var stay []net.Conn
	for n := range 30 {
		stay = append(stay, d.clientsOfManyKinds(n, to, sink, datagrams)...)
		if n%10 == 9 {
			d.reload()
		}
	}
	for _, c := range stay {
		echoes(t, c, "still there")
		c.Close()
	}
	var now books
	for end := time.Now().Add(patience); ; {
		now = keeper.read(d)
		if now == now.agree() && now.Connections > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the books differ (-what the records say +what is told):\n%s", cmp.Diff(now.agree(), now))
		}
	}
	if now.AliceRecords.In == 0 || now.Records.In <= now.AliceRecords.In || now.AliceGranted == 0 || now.Connections < 200 {
		t.Errorf("hardly anything was moved: %+v", now)
	}
	d.backTo(before)
}

// clientsOfManyKinds come one after the other; those that it returns stay.
func (d *daemon) clientsOfManyKinds(n int, to, sink, datagrams netip.AddrPort) (stay []net.Conn) {
	t := d.t
	t.Helper()
	address := func(command byte, at netip.AddrPort) []byte {
		return append(append([]byte{5, command, 0, 1}, at.Addr().AsSlice()...), byte(at.Port()>>8), byte(at.Port()))
	}
	login := func(password string) *net.TCPConn {
		c := dialProxyFrom(t, d.address, from(n+2))
		send(t, c, append(append([]byte{5, 1, 2, 1, 5}, "alice"...), append([]byte{byte(len(password))}, password...)...)...)
		receive(t, c, 2) // the method
		return c
	}
	// One with a password, and one with a wrong one.
	c := login("x")
	receive(t, c, 2)
	if code := request(t, c, 1, to); code != succeeded {
		t.Fatalf("reply %d", code)
	}
	echoes(t, c, strings.Repeat("alice ", n+1))
	if n%5 == 0 {
		stay = append(stay, c)
	} else {
		c.Close()
	}
	c = login("wrong")
	receive(t, c, 2)
	c.Close()
	// One who sends all at once, and shuts its side down.
	c = dialProxy(t, d.address)
	send(t, c, append(append([]byte{5, 1, 0}, address(1, sink)...), "all of it"...)...)
	_ = c.CloseWrite()
	_, _ = io.Copy(io.Discard, c)
	c.Close()
	// One by HTTP, with a password, ahead of the answer too.
	c = dialProxyFrom(t, d.address, from(n+2))
	send(t, c, fmt.Appendf(nil, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n\r\nahead",
		sink, sink, base64.StdEncoding.EncodeToString([]byte("alice:x")))...)
	_ = c.CloseWrite()
	_, _ = io.Copy(io.Discard, c)
	c.Close()
	// One who resets in the middle, or stays.
	c, code := connect(t, d.address, to)
	if code != succeeded {
		t.Fatalf("reply %d", code)
	}
	echoes(t, c, "half of it")
	if n%7 == 0 {
		stay = append(stay, c)
	} else {
		_ = c.SetLinger(0)
		c.Close()
	}
	// Garbage, and half a handshake.
	for _, some := range [][]byte{[]byte("garbage"), {5, 2, 0}} {
		c = dialProxy(t, d.address)
		send(t, c, some...)
		c.Close()
	}
	// Datagrams.
	a := mustAssociate(t, d.address)
	a.send(append(header(0, datagrams.Addr().String(), datagrams.Port()), "a datagram"...))
	a.receive()
	a.socket.Close()
	a.control.Close()
	return stay
}
