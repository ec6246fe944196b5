package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// behind is a network behind this host.
type behind struct {
	t   *testing.T
	pid string
}

// newNetwork is a network namespace that the interface far is in, of a pair whose
// other end, near, is this host's.
func newNetwork(t *testing.T, near, far string) *behind {
	t.Helper()
	sleep := exec.Command(program(t, "unshare", "util-linux"), "--net", "sleep", "600")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
	b := &behind{t: t, pid: fmt.Sprint(sleep.Process.Pid)}
	inNet(t, "ip link add "+near+" type veth peer name "+far)
	t.Cleanup(func() { inNet(t, "ip link del "+near) })
	// Until unshare has made it, the process is still in this namespace.
	eventually(t, "there is another network", func() bool {
		links, err := exec.Command("nsenter", "-t", b.pid, "-n", "ip", "link", "show", near).CombinedOutput()
		return err != nil && strings.Contains(string(links), "does not exist")
	})
	inNet(t, "ip link set "+far+" netns "+b.pid)
	return b
}

// newNeighbour is another host of a network 10.N.0.0/24 and 2001:db8:N::/64, where
// it is number 2 and this host number 1.
func newNeighbour(t *testing.T, near, far string, n int) *behind {
	t.Helper()
	b := newNetwork(t, near, far)
	up := func(address int, link string) []string {
		return []string{
			fmt.Sprintf("ip addr add 10.%d.0.%d/24 dev %s", n, address, link), fmt.Sprintf("ip -6 addr add 2001:db8:%d::%d/64 dev %s nodad", n, address, link),
			"ip link set lo up", "ip link set " + link + " up",
		}
	}
	for _, c := range up(1, near) {
		inNet(t, c)
	}
	b.must(up(2, far)...)
	return b
}

// newBehind is a client in a network namespace of its own, whose every packet comes
// in through the interface "lan0".
func newBehind(t *testing.T) *behind {
	t.Helper()
	b := newNeighbour(t, "lan0", "lan1", 77)
	b.must("ip route add default via 10.77.0.1", "ip -6 route add default via 2001:db8:77::1")
	return b
}

// must runs commands in the network behind this host.
func (b *behind) must(commands ...string) {
	b.t.Helper()
	for _, c := range commands {
		if out, err := b.run(strings.Fields(c)...); err != nil {
			b.t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
}

// run runs a program in the network behind this host.
func (b *behind) run(args ...string) (string, error) {
	b.t.Helper()
	return run(b.t, nil, "nsenter", append([]string{"-t", b.pid, "-n"}, args...)...)
}

// inside calls f in that network, on a thread of its own. Sockets that f opens
// stay there.
func (b *behind) inside(f func()) {
	b.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		namespace, err := os.Open("/proc/" + b.pid + "/ns/net")
		if err == nil {
			err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET)
			namespace.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		b.t.Fatal(err)
	}
}

// serverFar gives this host an address of either family that is no
// interface's of the client's network, with a web server on a port of both.
func serverFar(t *testing.T) (four, six netip.AddrPort) {
	t.Helper()
	inNet(t, "ip -6 addr add 2001:db8:66::7/128 dev lo nodad")
	t.Cleanup(func() { inNet(t, "ip -6 addr del 2001:db8:66::7/128 dev lo") })
	p := freePort(t)
	four = netip.MustParseAddrPort("198.51.100.7:" + p)
	six = netip.MustParseAddrPort("[2001:db8:66::7]:" + p)
	origin(t, four.String())
	origin(t, six.String())
	return four, six
}

// loadRules loads a ruleset of dist/nftables and takes it out at the end.
func loadRules(t *testing.T, file, table string, variables ...string) {
	t.Helper()
	var args []string
	for _, v := range variables {
		args = append(args, "-D", v)
	}
	args = append(args, "-f", "../dist/nftables/"+file)
	if out, err := exec.Command(program(t, "nft", "nftables"), args...).CombinedOutput(); err != nil {
		t.Fatalf("nft %v: %v: %s", args, err, out)
	}
	t.Cleanup(func() { inNet(t, "nft delete table inet "+table) })
}

// takeMarked has packets with the mark 47 taken in, as tproxy.nft says.
func takeMarked(t *testing.T) {
	t.Helper()
	for _, command := range []string{
		"ip rule add fwmark 47 lookup 147", "ip route add local default dev lo table 147",
		"ip -6 rule add fwmark 47 lookup 147", "ip -6 route add local default dev lo table 147",
	} {
		inNet(t, command)
		t.Cleanup(func() { inNet(t, strings.Replace(command, " add ", " del ", 1)) })
	}
}

// Clients that know of no proxy are served by way of the packet filter, over
// both families, by either mode, and with the rulesets that are shipped.
func TestTransparent(t *testing.T) {
	client := newBehind(t)
	four, six := serverFar(t)
	takeMarked(t)
	for _, mode := range []string{"redirect", "tproxy"} {
		t.Run(mode, func(t *testing.T) {
			p := freePort(t)
			d := start(t, "[[listener]]\naddress = \"[::]:"+p+"\"\ntransparent = \""+mode+"\"\n[[acl.rule]]\naction = \"deny\"\nto = [\"203.0.113.0/24\"]\n[[acl.rule]]\naction = \"allow\"\nto = [\"0.0.0.0/0\", \"::/0\"]\n")
			variables := []string{"inside=lan0", "proxy_port=" + p}
			if mode == "tproxy" {
				variables = append(variables, "proxy_mark=47")
			}
			loadRules(t, mode+".nft", "cleversocks_"+mode, variables...)
			for _, server := range []netip.AddrPort{four, six} {
				out, err := client.run("curl", "-sS", "--noproxy", "*", "--max-time", "10", "http://"+server.String()+"/big")
				if err != nil || sum(strings.NewReader(out)) != bigSum() {
					t.Errorf("%s: %v, %d bytes", server, err, len(out))
				}
				l := d.record(server.String())
				if l.text("protocol") != "transparent" || !strings.Contains(l.text("client"), "77") || l.text("reply") != "succeeded" {
					t.Errorf("recorded as %v", l)
				}
			}
			before := d.baseline() // the relay keeps a pipe from here on
			// What the rules deny, and what is not there, is reset at once.
			for _, nothing := range []string{"203.0.113.1:80", "198.51.100.7:1"} {
				if out, err := client.run("curl", "-sS", "--noproxy", "*", "--max-time", "10", "http://"+nothing+"/"); err == nil || strings.Contains(out, "timed out") {
					t.Errorf("%s: %v: %s", nothing, err, out)
				}
			}
			// The listener's own address is no destination.
			if out, err := client.run("curl", "-sS", "--noproxy", "*", "--max-time", "10", "http://10.77.0.1:"+p+"/"); err == nil {
				t.Errorf("the listener answered as a server: %s", out)
			}
			d.backTo(before)
		})
	}
}

// A packet filter that turns the daemon's own connections to it again makes no
// endless chain: the loop is recognised. With the exception of the shipped
// ruleset there is none.
func TestTransparentLoop(t *testing.T) {
	four, _ := serverFar(t)
	p := freePort(t)
	d := start(t, "[[listener]]\naddress = \"0.0.0.0:"+p+"\"\ntransparent = \"redirect\"\n[egress]\nmark = 47\n")
	before := d.baseline()
	get := func() (string, error) {
		return curl(t, "-sS", "--noproxy", "*", "--max-time", "15", "http://"+four.String()+"/big")
	}
	t.Run("loop", func(t *testing.T) {
		loadRules(t, "redirect-local.nft", "cleversocks_local", "proxy_mark=99", "proxy_port="+p)
		if _, err := get(); err == nil {
			t.Error("a loop served something")
		}
		d.backTo(before)
		accepted := d.metric(`cleversocks_connections_accepted_total{listener="0.0.0.0:` + p + `"}`)
		if len(accepted) > 2 || accepted == "" {
			t.Errorf("%s connections were made of one", accepted)
		}
	})
	loadRules(t, "redirect-local.nft", "cleversocks_local", "proxy_mark=47", "proxy_port="+p)
	if out, err := get(); err != nil || sum(strings.NewReader(out)) != bigSum() {
		t.Errorf("%v, %d bytes", err, len(out))
	}
}

// nameServersBeyond are two name servers of another host, which is on the other side
// of this one than the clients. (A server of this host would have the very address that
// the answers are to leave from.)
func nameServersBeyond(t *testing.T) (four, six netip.AddrPort) {
	t.Helper()
	b := newNeighbour(t, "far0", "far1", 88)
	inside := func(address string) (at netip.AddrPort) {
		b.inside(func() { at = dnsServer(t, address) })
		return at
	}
	return inside("10.88.0.2:0"), inside("[2001:db8:88::2]:0")
}

// Datagrams of clients that know of no proxy are served as well, over both
// families: the answer comes from the address that was asked, or no program would
// take it. Each flow is a session with its record, ends when nothing moves, and
// leaves nothing behind. (dig takes answers from nobody but whom it asked.)
func TestTransparentDatagrams(t *testing.T) {
	client := newBehind(t)
	four, six := nameServersBeyond(t)
	takeMarked(t)
	p := freePort(t)
	d := start(t, "[[listener]]\nname = \"lan\"\naddress = \"[::]:"+p+"\"\ntransparent = \"tproxy\"\n[udp]\nidle_timeout = \"2s\"\n[limits]\nmax_connections_per_ip = 4\n"+
		"[acl]\nblock_private = false\n[[acl.rule]]\naction = \"deny\"\nto = [\"203.0.113.0/24\"]\n")
	loadRules(t, "tproxy.nft", "cleversocks_tproxy", "inside=lan0", "proxy_port="+p, "proxy_mark=47")
	before := d.baseline()
	dig := func(server netip.AddrPort, more ...string) string {
		out, _ := client.run(append([]string{program(t, "dig", "bind9-dnsutils"), "+short", "+tries=1", "+timeout=4", "@" + server.Addr().String(), "-p", fmt.Sprint(server.Port()), "www.example.org", "A"}, more...)...)
		return out
	}
	for _, server := range []netip.AddrPort{four, six} {
		if out := dig(server); !strings.Contains(out, "203.0.113.53") {
			t.Errorf("%s: %q", server, out)
		}
		l := d.record(server.String())
		if l.text("protocol") != "transparent" || l.text("command") != "udp" || !strings.Contains(l.text("client"), "77") ||
			l.text("cause") != "idle" || l.text("bytes_in") == "0" || l.text("bytes_out") == "0" || l.text("listener") != "lan" {
			t.Errorf("recorded as %v", l)
		}
	}
	// What the rules deny is dropped, and is one record however often it is sent.
	denied := netip.MustParseAddrPort("203.0.113.9:53")
	if out := dig(denied, "+tries=1", "+timeout=1"); strings.Contains(out, "203.0.113.53") {
		t.Errorf("denied: %q", out)
	}
	eventually(t, "the refusal is counted", func() bool {
		return d.metric(`cleversocks_requests_refused_total{reason="acl"}`) == "1"
	})
	// Limits of sources count flows as connections.
	client.run("bash", "-c", "for i in 1 2 3 4 5 6; do echo x > /dev/udp/10.88.0.2/9; done") // before one of them ends
	eventually(t, "flows past the limit are counted", func() bool {
		return d.metric(`cleversocks_connections_refused_total{reason="ip_limit"}`) != "0"
	})
	// This host's own address is no destination of the filter's.
	if out, _ := client.run("bash", "-c", "echo x > /dev/udp/10.77.0.1/"+p); out != "" {
		t.Logf("its own port: %s", out)
	}
	d.backTo(before)
}
