package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// udpEcho sends datagrams back to where they came from.
func udpEcho(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// association is a client's: its control connection, its socket, and where
// the relay told it to send.
type association struct {
	t       *testing.T
	control *net.TCPConn
	socket  *net.UDPConn
	relay   netip.AddrPort
}

// associate asks for an association, and returns the reply's code.
func associate(t *testing.T, proxy string) (*association, byte) {
	t.Helper()
	a := &association{t: t, control: dialProxy(t, proxy)}
	send(t, a.control, 5, 1, 0)
	receive(t, a.control, 2)
	send(t, a.control, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0)
	head := receive(t, a.control, 4)
	size := map[byte]int{1: 4, 4: 16}[head[3]]
	rest := receive(t, a.control, size+2)
	ip, _ := netip.AddrFromSlice(rest[:size])
	a.relay = netip.AddrPortFrom(ip, uint16(rest[size])<<8|uint16(rest[size+1]))
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: a.control.LocalAddr().(*net.TCPAddr).IP})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	a.socket = socket
	return a, head[1]
}

// mustAssociate is associate that has to succeed.
func mustAssociate(t *testing.T, proxy string) *association {
	t.Helper()
	a, code := associate(t, proxy)
	if code != succeeded || a.relay.Port() == 0 || a.relay.Addr().IsUnspecified() {
		t.Fatalf("reply %d, %s", code, a.relay)
	}
	return a
}

// header is the header of a datagram for a host, an address or a name.
func header(fragment byte, host string, port uint16) []byte {
	b := []byte{0, 0, fragment}
	if ip, err := netip.ParseAddr(host); err == nil {
		kind := byte(1)
		if ip.Is6() {
			kind = 4
		}
		b = append(append(b, kind), ip.AsSlice()...)
	} else {
		b = append(append(b, 3, byte(len(host))), host...)
	}
	return append(b, byte(port>>8), byte(port))
}

func (a *association) send(b []byte) {
	a.t.Helper()
	if _, err := a.socket.WriteToUDPAddrPort(b, a.relay); err != nil {
		a.t.Fatal(err)
	}
}

// receive reads the next datagram's source and payload.
func (a *association) receive() (from netip.AddrPort, payload []byte) {
	a.t.Helper()
	_ = a.socket.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1<<16)
	n, err := a.socket.Read(b)
	if err != nil {
		a.t.Fatal(err)
	}
	size := map[byte]int{1: 4, 4: 16}[b[3]]
	if n < 6+size || size == 0 || b[2] != 0 {
		a.t.Fatalf("datagram % x", b[:min(n, 30)])
	}
	ip, _ := netip.AddrFromSlice(b[4 : 4+size])
	return netip.AddrPortFrom(ip, uint16(b[4+size])<<8|uint16(b[5+size])), b[6+size : n]
}

// echoes sends to a host and expects the same back, from the address given.
func (a *association) echoes(host string, from netip.AddrPort, payload string) {
	a.t.Helper()
	a.send(append(header(0, host, from.Port()), payload...))
	got, back := a.receive()
	if got != from || string(back) != payload {
		a.t.Errorf("to %s: %d bytes from %s, want %d from %s", host, len(back), got, len(payload), from)
	}
}

// ended waits until the server has closed the control connection.
func (a *association) ended() {
	a.t.Helper()
	if n, err := a.control.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		a.t.Errorf("the control connection: %d bytes, %v, want its end", n, err)
	}
}

// Every kind of target, and rubbish between: nothing ends, and replies carry
// addresses.
func TestUDPAssociation(t *testing.T) {
	four, six := udpEcho(t, "127.0.0.1:0"), udpEcho(t, "[::1]:0")
	d := start(t, "[[listener]]\naddress = \"[::]:0\"\n")
	p := port(d.address)
	before := d.baseline()
	for _, proxy := range []string{"127.0.0.1:" + p, "[::1]:" + p, "192.0.2.1:" + p} {
		a := mustAssociate(t, proxy)
		if host, _, _ := net.SplitHostPort(proxy); a.relay.Addr().String() != host {
			t.Errorf("asked %s, told %s", proxy, a.relay)
		}
		for _, rubbish := range [][]byte{
			{},
			{0},
			{0, 0, 0},
			{0, 0, 0, 9, 1, 2, 3},
			{0, 0, 0, 3, 200, 'a'},
			{0, 0, 0, 3, 0, 0, 80},
			header(0, "127.0.0.1", 0), append(header(0, "127.0.0.1", 0), "x"...), header(0, "no such name", 53),
			append(header(0, "127.0.0.1", 1), "refused by ICMP"...), append(header(0, "203.0.113.9", 53), "no route"...),
		} {
			a.send(rubbish)
		}
		a.echoes("127.0.0.1", four, "four")
		a.echoes("::1", six, "six")
		a.echoes("localhost", six, "a name")
		a.echoes("localhost", four, "nobody is at ::1 there")
		a.echoes("LOCALHOST.", six, "the same name")
		a.echoes("127.0.0.1", four, "") // an empty payload is a datagram
		a.echoes("127.0.0.1", four, string(bytes.Repeat([]byte("64 KiB "), 9300)))
		a.control.Close()
	}
	l := d.find("of an association", func(l line) bool { return l["msg"] == "connection" })
	if l.text("command") != "udp" || l.text("cause") != "client_closed" || l.text("reply") != "succeeded" || l.text("bytes_out") != fmt.Sprint(4+3+6+22+13+65100) {
		t.Errorf("recorded as %v", l)
	}
	d.backTo(before)
	if got := d.settles("cleversocks_udp_associations_active", "0"); got != "0" {
		t.Errorf("%s associations are left", got)
	}
}

// The proxy's own listeners and relays are no destination for datagrams, and
// fragments are put together.
func TestUDPRulesAndFragments(t *testing.T) {
	echo := udpEcho(t, "127.0.0.1:0")
	d := start(t, "")
	a, other := mustAssociate(t, d.address), mustAssociate(t, d.address)
	own := netip.MustParseAddrPort(d.address)
	a.send(append(header(0, "127.0.0.1", own.Port()), "to the listener's port"...))
	a.send(append(header(0, "127.0.0.1", other.relay.Port()), "to another relay"...))
	a.send(append(header(0, "0.0.0.0", echo.Port()), "to this host"...))
	eventually(t, "three are denied", func() bool {
		return d.metric(`cleversocks_udp_datagrams_total{direction="in",outcome="denied"}`) == "3"
	})
	a.send(append(header(1, "127.0.0.1", echo.Port()), "one, "...))
	a.send(append(header(2, "127.0.0.1", echo.Port()), "two, "...))
	a.send(append(header(3|0x80, "127.0.0.1", echo.Port()), "three"...))
	if from, got := a.receive(); from != echo || string(got) != "one, two, three" {
		t.Errorf("fragments: %q from %s", got, from)
	}
	a.send(append(header(1, "127.0.0.1", echo.Port()), "given up, "...))
	a.send(append(header(3|0x80, "127.0.0.1", echo.Port()), "out of order"...))
	a.echoes("127.0.0.1", echo, "whole")
}

// Whose datagrams come back, by the setting.
func TestUDPFilter(t *testing.T) {
	for filter, want := range map[string]int{"none": 3, "address": 2, "endpoint": 1} {
		t.Run(filter, func(t *testing.T) {
			d := start(t, "[udp]\nfilter = \""+filter+"\"\n")
			// The peer's first answer tells the address that the relay sends from.
			var peers []*net.UDPConn
			for _, address := range []string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0"} {
				ua, _ := net.ResolveUDPAddr("udp", address)
				c, err := net.ListenUDP("udp", ua)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				peers = append(peers, c)
			}
			a := mustAssociate(t, d.address)
			first := peers[0].LocalAddr().(*net.UDPAddr).AddrPort()
			a.send(append(header(0, "127.0.0.1", first.Port()), "hello"...))
			b := make([]byte, 64)
			_ = peers[0].SetReadDeadline(time.Now().Add(patience))
			_, relay, err := peers[0].ReadFromUDPAddrPort(b)
			if err != nil {
				t.Fatal(err)
			}
			// In turn: the last one always passes and ends the count.
			for _, peer := range []*net.UDPConn{peers[2], peers[1], peers[0]} {
				if _, err := peer.WriteToUDPAddrPort([]byte("hi"), relay); err != nil {
					t.Fatal(err)
				}
			}
			came := 1
			for {
				from, _ := a.receive()
				if from == first {
					break
				}
				came++
			}
			if came != want {
				t.Errorf("%d of three peers pass, want %d", came, want)
			}
		})
	}
}

// Ports, an advertised address, caps, and what SIGHUP changes.
func TestUDPSettings(t *testing.T) {
	echo := udpEcho(t, "127.0.0.1:0")
	const admin = "[admin]\naddress = \"127.0.0.1:0\"\n"
	listener := "[[listener]]\naddress = \"127.0.0.1:" + freePort(t) + "\"\n"
	config := writeFile(t, "c.toml", listener+"advertise = \"203.0.113.7\"\n[udp]\nports = \"19100-19101\"\nmax_associations_per_user = 2\n"+admin)
	d := startProgram(t, "--config", config, "--log-format", "json")
	seen := make(map[uint16]bool)
	var open []*association
	for range 2 {
		a := mustAssociate(t, d.address)
		if a.relay.Addr().String() != "203.0.113.7" {
			t.Errorf("told %s", a.relay)
		}
		seen[a.relay.Port()] = true
		a.relay = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.relay.Port())
		a.echoes("127.0.0.1", echo, "from a port of the range")
		open = append(open, a)
	}
	if !seen[19100] || !seen[19101] {
		t.Errorf("ports %v", seen)
	}
	if _, code := associate(t, d.address); code != notAllowed {
		t.Errorf("the third of a user who has two: reply %d", code)
	}
	if got := d.settles(`cleversocks_udp_associations_refused_total{reason="user_limit"}`, "1"); got != "1" {
		t.Errorf("counted %s", got)
	}
	rewrite(t, config, listener+"[udp]\nenabled = false\n"+admin)
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "2")
	if _, code := associate(t, d.address); code != cmdUnsupported {
		t.Errorf("turned off: reply %d", code)
	}
	open[0].echoes("127.0.0.1", echo, "after the reload")
	rewrite(t, config, listener+"[udp]\nmax_associations = 2\nports = \"19100\"\n"+admin)
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "3")
	if _, code := associate(t, d.address); code != 1 {
		t.Errorf("past the server's cap: reply %d", code)
	}
	open[1].control.Close()
	eventually(t, "a place is free", func() bool { return d.metric("cleversocks_udp_associations_active") == "1" })
	open[0].control.Close()
	eventually(t, "the port is free", func() bool { return d.metric("cleversocks_udp_associations_active") == "0" })
	if a := mustAssociate(t, d.address); a.relay.Port() != 19100 {
		t.Errorf("told %s", a.relay)
	}
	if _, code := associate(t, d.address); code != 1 {
		t.Errorf("no port is left: reply %d", code)
	}
}

// An association that rests goes on, and ends at the drain's deadline: what ends
// it closes its control connection.
func TestUDPEnds(t *testing.T) {
	echo := udpEcho(t, "127.0.0.1:0")
	d := start(t, "[udp]\nidle_timeout = \"1s\"\n[drain]\ntimeout = \"4s\"\n")
	a := mustAssociate(t, d.address)
	before := d.baseline().descriptors
	a.echoes("127.0.0.1", echo, "opens a socket")
	eventually(t, "it gives its socket back", func() bool { return d.descriptors() <= before })
	a.echoes("127.0.0.1", echo, "after a rest")
	a.echoes("127.0.0.1", echo, "before")
	d.signal(syscall.SIGTERM)
	d.waitLine("msg", "draining")
	a.echoes("127.0.0.1", echo, "while it drains")
	a.ended()
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if l := d.find("of it", func(l line) bool { return l["msg"] == "connection" }); l.text("cause") != "drained" {
		t.Errorf("cause %s", l.text("cause"))
	}
}

// Discord, games and calls send from several ports through one association;
// each is answered at its own, unless udp.client_ports says "first".
func TestUDPClientPorts(t *testing.T) {
	echo := udpEcho(t, "127.0.0.1:0")
	for setting, answered := range map[string]bool{"": true, "client_ports = \"any\"\n": true, "client_ports = \"first\"\n": false} {
		d := start(t, "[udp]\n"+setting)
		a := mustAssociate(t, d.address)
		a.echoes("127.0.0.1", echo, "the first port")
		other := *a
		socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: a.control.LocalAddr().(*net.TCPAddr).IP})
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		other.socket = socket
		if answered {
			other.echoes("127.0.0.1", echo, "the second port")
		} else {
			other.send(append(header(0, "127.0.0.1", echo.Port()), "in another's name"...))
			eventually(t, "it is counted", func() bool {
				return d.metric(`cleversocks_udp_datagrams_total{direction="in",outcome="wrong_client"}`) == "1"
			})
		}
		a.echoes("127.0.0.1", echo, "the first port again")
	}
}

// A neighbour on another address cannot use an association.
func TestUDPClientsAddress(t *testing.T) {
	echo := udpEcho(t, "127.0.0.1:0")
	d := start(t, "")
	a := mustAssociate(t, d.address)
	a.echoes("127.0.0.1", echo, "mine")
	stranger, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.WriteToUDPAddrPort(append(header(0, "127.0.0.1", echo.Port()), "not mine"...), a.relay); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is counted", func() bool {
		return d.metric(`cleversocks_udp_datagrams_total{direction="in",outcome="wrong_client"}`) == "1"
	})
	a.echoes("127.0.0.1", echo, "still mine")
}

// What the rules refused to an association stood in no list: an operator who looked
// for what a client misses saw nothing but a counter, and not even that for a name.
func TestUDPDenials(t *testing.T) {
	echo := udpEcho(t, "127.0.0.1:0")
	const rules = "[acl]\nblock_private = false\n[[acl.rule]]\naction = \"deny\"\nto = [\"127.0.0.3\"]\n" +
		"[[acl.rule]]\naction = \"deny\"\nto = [\"*.corp.test\"]\ncommands = [\"udp\"]\n[[forward]]\nto = [\"127.0.0.4\"]\nupstream = \"reject\"\n"
	d := start(t, withAPI(t, rules))
	a := mustAssociate(t, d.address)
	for _, host := range []string{"127.0.0.3", "wiki.corp.test", "127.0.0.4"} {
		a.send(append(header(0, host, 53), "x"...))
	}
	a.echoes("127.0.0.1", echo, "goes on")
	var denials []object
	eventually(t, "the denials are listed", func() bool { d.call("GET", "/api/v1/denials", nil, &denials); return len(denials) == 3 })
	rule := map[string]string{"127.0.0.3:53": "acl.rules[0]", "wiki.corp.test:53": "acl.rules[1]", "127.0.0.4:53": "forward[0]"}
	for _, one := range denials {
		target := fmt.Sprint(one["target"])
		if one["rule"] != rule[target] || one["command"] != "udp" || !strings.Contains(fmt.Sprint(one["sentence"]), "may not send datagrams to "+target) {
			t.Errorf("%v", one)
		}
	}
	if n := d.metric(`cleversocks_udp_datagrams_total{direction="in",outcome="denied"}`); n != "3" {
		t.Errorf("%s datagrams denied", n)
	}
	if n := d.metric(`cleversocks_acl_decisions_total{action="deny",rule="acl.rules[1]"}`); n != "1" {
		t.Errorf("%s decisions about the name", n)
	}
}
