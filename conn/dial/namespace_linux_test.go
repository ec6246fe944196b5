package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/e2e/need"
	"cleversocks/metrics"
	"cleversocks/resolver"
)

// inNamespace runs a test's body in a network namespace of its own, by
// running this test alone in a second process there. It needs root, else the
// test is left out.
func inNamespace(t *testing.T, setup [][]string, body func(t *testing.T)) {
	t.Helper()
	const mark = "CLEVERSOCKS_TEST_NAMESPACE"
	if os.Getenv(mark) == t.Name() {
		for _, command := range setup {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
			}
		}
		body(t)
		return
	}
	need.Root(t)
	for _, command := range setup {
		need.Program(t, command[0], map[string]string{"ip": "iproute2", "nft": "nftables"}[command[0]])
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in a network namespace:\n%s", out)
	if err != nil {
		t.Fatalf("in a network namespace (needs root, ip and nft): %v", err)
	}
}

func commands(lines ...string) [][]string {
	out := make([][]string, len(lines))
	for i, line := range lines {
		out[i] = strings.Fields(line)
	}
	return out
}

// timeDial reports how long it took to connect, and to what.
func timeDial(t *testing.T, what string, d *Dialer, dest wire.Addr) netip.Addr {
	t.Helper()
	start := time.Now()
	c, err := d.Dial(t.Context(), Request{Dest: dest})
	took := time.Since(start)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer closeIt(t, c)
	t.Logf("%s: connected in %v (goal: 300 ms)", what, took.Round(100*time.Microsecond))
	return c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
}

// TestBlackHole measures how long a family or an address that swallows
// packets holds a connection up.
func TestBlackHole(t *testing.T) {
	inNamespace(t, commands(
		"ip link set lo up",
		"ip addr add 192.0.2.1/32 dev lo",
		"ip addr add 192.0.2.2/32 dev lo",
		"ip addr add 192.0.2.3/32 dev lo",
		"ip addr add 192.0.2.4/32 dev lo",
		"ip -6 addr add 2001:db8::1/128 dev lo nodad",
		"ip -6 addr add 2001:db8::2/128 dev lo nodad",
		"nft add table inet hole",
		"nft add chain inet hole in { type filter hook input priority 0 ; }",
		"nft add rule inet hole in ip6 daddr 2001:db8::/32 tcp dport 1-65535 drop",
		"nft add rule inet hole in ip daddr 192.0.2.1 tcp dport 1-65535 drop",
	), func(t *testing.T) {
		t.Helper()
		port := listen(t, "0.0.0.0:0").Port()
		table := map[string][]netip.Addr{
			"both.test": addrs("2001:db8::1", "2001:db8::2", "192.0.2.2"),
			"four.test": addrs("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"),
			"hole.test": addrs("2001:db8::1", "192.0.2.1"),
		}
		d := New(Options{Lookup: lookupTable(table), ConnectTimeout: 10 * time.Second})
		want := netip.MustParseAddr("192.0.2.2")
		both := wire.Addr{Name: "both.test", Port: port}
		for _, what := range []string{"IPv6 black-holed", "IPv6 black-holed, the winner remembered"} {
			if got := timeDial(t, what, d, both); got != want {
				t.Errorf("connected to %s, want %s", got, want)
			}
		}
		if got := timeDial(t, "first of four addresses dead", d, wire.Addr{Name: "four.test", Port: port}); got != want {
			t.Errorf("connected to %s, want %s", got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		_, err := d.Dial(ctx, Request{Dest: wire.Addr{Name: "hole.test", Port: port}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("all black-holed: %v", err)
		}
		d = New(Options{ConnectTimeout: 100 * time.Millisecond})
		_, err = d.Dial(t.Context(), Request{Dest: wire.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: port}})
		if !errors.Is(err, context.DeadlineExceeded) || Classify(err) != metrics.DialTimeout {
			t.Errorf("a black-holed literal: %v", err)
		}
		ctx, gone := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, gone)
		_, err = New(Options{ConnectTimeout: time.Hour}).Dial(ctx, Request{Dest: wire.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: port}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a black-holed literal, given up: %v", err)
		}
	})
}

// TestPortRange makes more connections from one source address than there
// are ports, to several destinations.
func TestPortRange(t *testing.T) {
	inNamespace(t, commands("ip link set lo up"), func(t *testing.T) {
		t.Helper()
		const ports = 10
		destinations := []netip.AddrPort{listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40009"), 0o600); err != nil {
			t.Fatal(err)
		}
		d := New(Options{Egress: Egress{Addresses: prefixes("127.0.0.2/32")}})
		for _, to := range destinations {
			for i := range ports {
				c, err := d.Dial(t.Context(), Request{Dest: wire.FromAddrPort(to)})
				if err != nil {
					t.Fatalf("connection %d to %s: %v", i+1, to, err)
				}
				defer closeIt(t, c)
			}
		}
		_, err := d.Dial(t.Context(), Request{Dest: wire.FromAddrPort(destinations[0])})
		if !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("past the range to one destination: %v", err)
		}
	})
}

// TestNoRoute tells a destination without a route by its errno, and goes on
// to the family that has one.
func TestNoRoute(t *testing.T) {
	inNamespace(t, commands("ip link set lo up"), func(t *testing.T) {
		t.Helper()
		to := listen(t, "127.0.0.1:0")
		d := New(Options{Lookup: lookupTable(map[string][]netip.Addr{
			"both.test": append(addrs("2001:db8::1"), to.Addr()),
			"none.test": addrs("2001:db8::1", "192.0.2.1"),
		})})
		if got := timeDial(t, "no IPv6 route", d, wire.Addr{Name: "both.test", Port: to.Port()}); got != to.Addr() {
			t.Errorf("connected to %s", got)
		}
		_, err := d.Dial(t.Context(), Request{Dest: wire.Addr{Name: "none.test", Port: 80}})
		if !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("no route at all: %v", err)
		}
		if errors.Is(err, resolver.ErrNotFound) {
			t.Errorf("taken for a name that does not exist: %v", err)
		}
	})
}
