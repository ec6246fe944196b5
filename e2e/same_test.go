package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tellSource answers each datagram with itself, and where it came from.
func tellSource(t *testing.T, at string) netip.AddrPort {
	t.Helper()
	socket, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			question := make([]byte, 64)
			n, from, err := socket.ReadFrom(question)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(append(question[:n], from.(*net.UDPAddr).AddrPort().Addr().Unmap().String()...), from)
		}
	}()
	t.Cleanup(func() { socket.Close(); <-done })
	return socket.LocalAddr().(*net.UDPAddr).AddrPort()
}

// questions numbers what leftFrom asks: the answer to an earlier one may be late.
var questions atomic.Int64

// leftFrom is where a datagram for the server came from; "": none came, or no answer
// in time.
func (a *association) leftFrom(server netip.AddrPort) string {
	a.t.Helper()
	question := fmt.Sprintf("%d?", questions.Add(1))
	a.send(append(header(0, server.Addr().String(), server.Port()), question...))
	_ = a.socket.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	for answer := make([]byte, 128); ; {
		n, err := a.socket.Read(answer)
		if err != nil {
			return ""
		}
		if asked, from, _ := strings.Cut(string(answer[:n]), question); asked == string(header(0, server.Addr().String(), server.Port())) {
			return from
		}
	}
}

// nodad has an address of IPv6 be there at once: it is tentative until the kernel
// has looked for others who have it, on loopback too.
func nodad(address string) string {
	if netip.MustParseAddr(address).Is6() {
		return " nodad"
	}
	return ""
}

// What comes in on an address leaves from it, datagrams and ports of BIND as well as
// connections, and nothing leaves by an address of the other family, which is not
// meant. An address that goes takes nothing else along, and works when it is back.
func TestSameEgressOfCommands(t *testing.T) {
	addresses := []string{"10.91.0.21", "10.91.0.22", "2001:db8:91::1", "2001:db8:91::2"}
	for _, a := range append(addresses, "10.91.0.23") {
		inNet(t, "ip addr add "+a+" dev lo"+nodad(a))
		t.Cleanup(func() { inNet(t, "ip addr replace "+a+" dev lo"+nodad(a)); inNet(t, "ip addr del "+a+" dev lo") })
	}
	four, six := tellSource(t, "127.0.0.1:0"), tellSource(t, "[2001:db8:91::2]:0")
	port := freePort(t)
	d := lineageOf(start(t, withAPI(t, fmt.Sprintf("[acl]\nblock_private = false\n[bind]\naccept_timeout = \"20s\"\n[[listener]]\naddress = \"[::]:%s\"\negress = \"same\"\n[[listener]]\naddress = \"127.0.0.1:%s\"\negress = \"10.91.0.23\"\n", port, freePort(t)))))
	for _, in := range addresses {
		here := netip.MustParseAddr(in)
		mine, other := four, six
		if here.Is6() {
			mine, other = six, four
		}
		a := mustAssociate(t, net.JoinHostPort(in, port))
		eventually(t, in+" is where datagrams leave from", func() bool { return a.leftFrom(mine) == in })
		if got := a.leftFrom(other); got != "" {
			t.Errorf("came to %s, left from %s", in, got)
		}
		c := dialProxy(t, net.JoinHostPort(in, port))
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		send(t, c, append([]byte{5, 2, 0, map[bool]byte{true: 1, false: 4}[here.Is4()]}, append(mine.Addr().AsSlice(), 0, 0)...)...)
		code, at := bindReply(t, c)
		if code != succeeded || at.Addr() != here {
			t.Errorf("BIND at %s: reply %d, %s", in, code, at)
			continue
		}
		if _, err := connectFrom(t, mine.Addr().String(), at); err != nil {
			t.Errorf("BIND at %s: %v", in, err)
		}
		if code, _ := bindReply(t, c); code != succeeded {
			t.Errorf("BIND at %s: second reply %d", in, code)
		}
	}
	// A peer of the other family has no way here.
	c := dialProxy(t, net.JoinHostPort(addresses[0], port))
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	send(t, c, append([]byte{5, 2, 0, 4}, append(six.Addr().AsSlice(), 0, 0)...)...)
	if code, _ := bindReply(t, c); code == succeeded {
		t.Error("BIND for IPv6 where connections leave by IPv4 alone")
	}
	// Another address is taken away meanwhile, and given back.
	elsewhere := d.all("proxy listens")[1].text("address")
	a := mustAssociate(t, elsewhere)
	from := func(want string) func() bool { return func() bool { return a.leftFrom(four) == want } }
	eventually(t, "by its own address", from("10.91.0.23"))
	stays := mustAssociate(t, net.JoinHostPort(addresses[0], port))
	inNet(t, "ip addr del 10.91.0.23 dev lo")
	eventually(t, "by no address", from(""))
	eventually(t, "another association goes on", func() bool { return stays.leftFrom(four) == addresses[0] })
	late := mustAssociate(t, elsewhere)
	if got := late.leftFrom(four); got != "" {
		t.Errorf("one of now: by %q", got)
	}
	if _, code, _ := askBind(t, elsewhere, anyone); code == succeeded {
		t.Error("BIND at an address that is not there")
	}
	inNet(t, "ip addr add 10.91.0.23 dev lo")
	eventually(t, "by its own address again", from("10.91.0.23"))
	eventually(t, "that of now, too", func() bool { return late.leftFrom(four) == "10.91.0.23" })
}
