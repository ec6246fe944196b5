package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sourceEcho answers each datagram with where it came from, and with itself.
func sourceEcho(t *testing.T, b *behind, address string) (at netip.AddrPort) {
	t.Helper()
	var pc net.PacketConn
	var err error
	b.inside(func() { pc, err = net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(from.String()+" "+string(buf[:n])), from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// flowOf is a client's socket that is connected to a server, which knows of no
// proxy.
func flowOf(t *testing.T, b *behind, to netip.AddrPort) (c net.Conn) {
	t.Helper()
	var err error
	b.inside(func() { c, err = net.Dial("udp", to.String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// asked sends a datagram and gives where the server saw it come from; "": there
// was no answer in time.
func asked(c net.Conn, payload string, patience time.Duration) (source string) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(payload)); err != nil {
		return ""
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return ""
		}
		if source, got, _ := strings.Cut(string(buf[:n]), " "); got == payload {
			return source
		}
	}
}

// The socket for datagrams passes to the successor: under load not one is lost
// over three upgrades. Flows of before live on in the process that has them, and
// their servers see no other source. (envoy#34732: sessions ended, and UDP
// listeners heard nothing until the parent had gone; envoy#20584: a port of both
// UDP and TCP could not be bound after a hot restart.)
func TestUpgradeDatagrams(t *testing.T) {
	client, beyond := newBehind(t), newNeighbour(t, "far0", "far1", 88)
	takeMarked(t)
	servers := []netip.AddrPort{sourceEcho(t, beyond, "10.88.0.2:0"), sourceEcho(t, beyond, "[2001:db8:88::2]:0")}
	p, own := freePort(t), ownBinary(t)
	config := writeFile(t, "c.toml", "[[listener]]\naddress = \"[::]:"+p+"\"\ntransparent = \"tproxy\"\nreuse_port = 2\n[drain]\ntimeout = \"100ms\"\n[log]\naccess = \"off\"\n[acl]\nblock_private = false\n")
	d := lineageOf(startCommand(t, exec.Command(own, "--config", config, "--log-format", "json")))
	loadRules(t, "tproxy.nft", "cleversocks_tproxy", "inside=lan0", "proxy_port="+p, "proxy_mark=47")
	flows := make([]net.Conn, 300)
	client.inside(func() {
		for i := range flows {
			flows[i], _ = net.Dial("udp", servers[i%len(servers)].String())
		}
	})
	before := make([]string, len(flows))
	// Some flows begin during each upgrade, and some in each process: none has all.
	var sent, wanted atomic.Int64
	wanted.Store(60)
	done := make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(3 * time.Millisecond)
		defer pace.Stop()
		for i, c := range flows {
			for <-pace.C; sent.Load() >= wanted.Load(); <-pace.C {
			}
			before[i] = asked(c, fmt.Sprint("datagram ", i), patience)
			sent.Add(1)
		}
	}()
	more := func(n int64) {
		eventually(t, "some more flows", func() bool { return sent.Load() >= n })
	}
	more(30)
	replaceBinary(t, own, badSuccessor(t, own)) // which gives the turn back
	d.tell(syscall.SIGUSR2)
	d.await("upgrade failed: this process goes on", 1)
	replaceBinary(t, own, binary)
	for range 3 {
		begun := wanted.Add(60) - 60
		more(begun + 1)
		d.upgrade()
	}
	wanted.Store(int64(len(flows)))
	<-done
	moved, lost := 0, 0
	for i, c := range flows {
		switch source := asked(c, fmt.Sprint("again ", i), patience); {
		case before[i] == "" || source == "":
			lost++
		case source != before[i]:
			moved++
		}
		c.Close()
	}
	if moved > 0 || lost > 0 {
		t.Errorf("of %d flows %d lost a datagram, and %d came from elsewhere afterwards", len(flows), lost, moved)
	}
	if n := len(d.all("the predecessor has ended")); n > 0 {
		t.Errorf("%d processes have ended, with their flows", n)
	}
}

// Flows of datagrams go through an upstream, end when a reload forbids them, and
// those of the daemon itself that a packet filter turns back to it are refused as
// the loop that they are.
func TestTransparentDatagramRoutes(t *testing.T) {
	client, beyond := newBehind(t), newNeighbour(t, "far0", "far1", 88)
	takeMarked(t)
	server := sourceEcho(t, beyond, "10.88.0.2:0")
	exit := start(t, "[acl]\nblock_private = false\n")
	p := freePort(t)
	settings := func(rule string) string {
		return "[drain]\ntimeout = \"100ms\"\n[[listener]]\naddress = \"0.0.0.0:" + p + "\"\ntransparent = \"tproxy\"\n[reload]\nrevoke = true\n[acl]\nblock_private = false\n" + rule +
			"[[upstream]]\nname = \"exit\"\nvia = [\"socks5://" + exit.address + "\"]\n[[forward]]\nto = [\"10.88.0.2\"]\nports = [" + fmt.Sprint(server.Port()) + "]\nupstream = \"exit\"\n"
	}
	config := writeFile(t, "c.toml", settings(""))
	d := lineageOf(startProgram(t, "--config", config, "--log-format", "json", "--log-level", "debug"))
	loadRules(t, "tproxy.nft", "cleversocks_tproxy", "inside=lan0", "proxy_port="+p, "proxy_mark=47")
	c := flowOf(t, client, server)
	first := asked(c, "through the upstream", patience)
	if first == "" || asked(c, "once more", patience) != first {
		t.Fatalf("answered from %q", first)
	}
	rewrite(t, config, settings("[[acl.rule]]\naction = \"deny\"\nto = [\"10.88.0.2\"]\n"))
	d.tell(syscall.SIGHUP)
	l := d.find("of the flow", func(l line) bool { return l.text("cause") == "revoked" })
	if l.text("upstream") != "exit" || l.text("command") != "udp" || l.text("target") != server.String() {
		t.Errorf("recorded as %v", l)
	}
	if at := exit.find("of the upstream", func(l line) bool { return l.text("command") == "udp" }); at.text("bytes_in") == "0" {
		t.Errorf("%v", at)
	}
	if source := asked(c, "after it was revoked", 300*time.Millisecond); source != "" {
		t.Errorf("answered from %s", source)
	}
	rewrite(t, config, settings(""))
	d.tell(syscall.SIGHUP)
	d.await("reloaded", 2)
	turnBack(t, "10.88.0.9", p)
	loop := flowOf(t, client, netip.MustParseAddrPort("10.88.0.9:9"))
	asked(loop, "around", 300*time.Millisecond)
	d.find("of the loop", func(l line) bool {
		return strings.Contains(l.text("err"), "came back to it") && l.text("target") == "10.88.0.9:9"
	})
}

// turnBack has what this host sends to an address come to its own listener.
func turnBack(t *testing.T, to, port string) {
	t.Helper()
	cmd := exec.Command(program(t, "nft", "nftables"), "-f", "-")
	cmd.Stdin = strings.NewReader("table ip turned { chain out { type route hook output priority mangle; ip daddr " + to + " meta l4proto udp meta mark set 47; }; " +
		"chain pre { type filter hook prerouting priority mangle; iifname lo ip daddr " + to + " meta l4proto udp tproxy to :" + port + " meta mark set 47 accept; }; }\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	t.Cleanup(func() { inNet(t, "nft delete table ip turned") })
}
