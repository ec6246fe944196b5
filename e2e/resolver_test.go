package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer is a running unbound, with a certificate for dns.test that the
// daemons of this test trust.
type nameServer struct {
	udp, tls, https string // addresses
	kill            func()
}

// unbound serves the records, which have TTLs of their own.
func unbound(t *testing.T, records ...string) *nameServer {
	t.Helper()
	dir := t.TempDir()
	certificate(t, dir, "dns.test")
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "cert.pem"))
	plain, secure, web := freePort(t), freePort(t), freePort(t)
	var data strings.Builder
	for _, r := range records {
		fmt.Fprintf(&data, "  local-data: %q\n", r)
	}
	conf := filepath.Join(dir, "unbound.conf")
	rewrite(t, conf, fmt.Sprintf(`server:
  username: ""
  chroot: ""
  directory: "%[1]s"
  pidfile: "%[1]s/pid"
  use-syslog: no
  num-threads: 1
  rrset-roundrobin: no
  module-config: "iterator"
  do-ip6: no
  interface: 127.0.0.1@53
  interface: 127.0.0.1@%[2]s
  interface: 127.0.0.1@%[3]s
  interface: 127.0.0.1@%[4]s
  tls-port: %[3]s
  https-port: %[4]s
  tls-service-key: "%[1]s/key.pem"
  tls-service-pem: "%[1]s/cert.pem"
  local-zone: "test." static
  local-data: "test. 60 IN SOA ns.test. root.test. 1 2 3 4 60"
%[5]sremote-control:
  control-enable: no
`, dir, plain, secure, web, data.String()))
	s := &nameServer{udp: "127.0.0.1:" + plain, tls: "127.0.0.1:" + secure, https: "127.0.0.1:" + web}
	s.kill = runPeer(t, s.udp, program(t, "unbound", "unbound"), "-d", "-c", conf)
	return s
}

// connectName asks for a name through the daemon, and reads the reply.
func connectName(t *testing.T, proxy, name string, port uint16) (net.Conn, byte) {
	t.Helper()
	c := dialProxy(t, proxy)
	send(t, c, 5, 1, 0)
	if got := receive(t, c, 2); got[1] != 0 {
		t.Fatalf("method %#x", got[1])
	}
	msg := append([]byte{5, 1, 0, 3, byte(len(name))}, name...)
	send(t, c, append(msg, byte(port>>8), byte(port))...)
	return c, readReply(t, c)
}

const (
	generalFailure  = 1
	hostUnreachable = 4
)

func resolverConfig(more string, servers ...string) string {
	return fmt.Sprintf("[resolver]\nservers = [\"%s\"]\n%s\n", strings.Join(servers, `", "`), more)
}

func TestResolverTransports(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	var many []string // more than a datagram holds
	for i := range 120 {
		many = append(many, fmt.Sprintf("many.test. 60 IN A 127.0.1.%d", i+1))
	}
	ns := unbound(t, append(many, "web.test. 60 IN A 127.0.0.1")...)
	all := echoServer(t, "0.0.0.0:0").Port()
	for transport, server := range map[string]string{
		"udp":   "udp://" + ns.udp,
		"tcp":   "tcp://" + ns.udp,
		"tls":   "tls://" + ns.tls + "#dns.test",
		"https": "https://dns.test:" + port(ns.https) + "/dns-query#127.0.0.1",
	} {
		t.Run(transport, func(t *testing.T) {
			d := start(t, resolverConfig("", server))
			for range 2 {
				c, reply := connectName(t, d.address, "WEB.test.", echo.Port())
				if reply != succeeded {
					t.Fatalf("reply %d", reply)
				}
				echoes(t, c, "by name")
			}
			if _, reply := connectName(t, d.address, "none.test", echo.Port()); reply != hostUnreachable {
				t.Errorf("a name that does not exist: reply %d", reply)
			}
			if _, reply := connectName(t, d.address, "many.test", all); reply != succeeded {
				t.Errorf("a large answer: reply %d", reply)
			}
			for series, want := range map[string]func(string) bool{
				`cleversocks_dns_lookups_total{transport="` + transport + `",outcome="ok"}`: positive,
				`cleversocks_dns_cache_total{outcome="hit"}`:                                positive,
				`cleversocks_dns_lookup_duration_seconds_count`:                             positive,
				`cleversocks_dns_lookups_total{transport="system",outcome="ok"}`:            func(s string) bool { return s == "" },
			} {
				if got := d.metric(series); !want(got) {
					t.Errorf("%s is %q", series, got)
				}
			}
		})
	}
}

func positive(s string) bool { return s != "" && s != "0" }

// TestResolverRefusesACertificate: a server with another's certificate is not
// believed, and is not asked any other way.
func TestResolverRefusesACertificate(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	ns := unbound(t, "web.test. 60 IN A 127.0.0.1")
	for transport, server := range map[string]string{
		"tls":   "tls://" + ns.tls + "#other.test",
		"https": "https://other.test:" + port(ns.https) + "/dns-query#127.0.0.1",
	} {
		d := start(t, resolverConfig("", server))
		if _, reply := connectName(t, d.address, "web.test", echo.Port()); reply != generalFailure {
			t.Errorf("%s: reply %d", transport, reply)
		}
		if got := d.metric(`cleversocks_dns_lookups_total{transport="` + transport + `",outcome="tls"}`); !positive(got) {
			t.Errorf("%s: refused certificates: %q", transport, got)
		}
		got := d.record(fmt.Sprintf("web.test:%d", echo.Port()))
		if !strings.Contains(got.text("err"), "certificate") {
			t.Errorf("%s: the record does not say why: %v", transport, got)
		}
	}
}

// TestResolverServesStale: with its only server killed, the daemon goes on
// with what it knew, and says so; a name that it never knew fails.
func TestResolverServesStale(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	ns := unbound(t, "web.test. 1 IN A 127.0.0.1")
	d := start(t, resolverConfig("timeout = \"1s\"", "udp://"+ns.udp))
	if _, reply := connectName(t, d.address, "web.test", echo.Port()); reply != succeeded {
		t.Fatalf("reply %d", reply)
	}
	ns.kill()
	eventually(t, "a stale answer is served", func() bool {
		c, reply := connectName(t, d.address, "web.test", echo.Port())
		c.Close()
		if reply != succeeded {
			t.Fatalf("with the server killed: reply %d", reply)
		}
		return positive(d.metric(`cleversocks_dns_cache_total{outcome="stale"}`))
	})
	if _, reply := connectName(t, d.address, "new.test", echo.Port()); reply == succeeded || reply == hostUnreachable {
		t.Errorf("a name that nobody knows: reply %d", reply)
	}
}

// TestResolverFailsOver goes on to the next server, behind one that is dead,
// one that is silent, and one that says SERVFAIL; and a slow answer is one.
func TestResolverFailsOver(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	ns := unbound(t, "web.test. 60 IN A 127.0.0.1")
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	failing := answering(t, func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
	slow := answering(t, func(w dns.ResponseWriter, q *dns.Msg) {
		timer := time.NewTimer(time.Second)
		<-timer.C
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(m)
	})
	for name, servers := range map[string][]string{
		"dead":     {"udp://127.0.0.1:" + freePort(t), "udp://" + ns.udp},
		"silent":   {"udp://" + silent.LocalAddr().String(), "udp://" + ns.udp},
		"SERVFAIL": {"udp://" + failing, "tcp://" + ns.udp},
		"slow":     {"udp://" + slow},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, resolverConfig("", servers...))
			begun := time.Now()
			if _, reply := connectName(t, d.address, "web.test", echo.Port()); reply != succeeded {
				t.Fatalf("reply %d", reply)
			}
			t.Logf("a first server that is %s: connected after %v", name, time.Since(begun).Round(time.Millisecond))
		})
	}
}

// answering is a name server of our own, over UDP.
func answering(t *testing.T, handler dns.HandlerFunc) (address string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	s := &dns.Server{PacketConn: pc, Handler: handler, NotifyStartedFunc: func() { close(started) }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		_ = s.Shutdown()
		<-done
	})
	return pc.LocalAddr().String()
}

// TestReloadOfTheResolver changes servers and family under way.
func TestReloadOfTheResolver(t *testing.T) {
	echo := echoServer(t, "[::1]:0")
	ns := unbound(t, "web.test. 60 IN AAAA ::1")
	text := func(resolver string) string {
		return resolver + "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"\"\n"
	}
	config := writeFile(t, "c.toml", text(resolverConfig("timeout = \"500ms\"", "udp://127.0.0.1:"+freePort(t))))
	d := startCommand(t, exec.Command(binary, "--config", config, "--log-format", "json"))
	if _, reply := connectName(t, d.address, "web.test", echo.Port()); reply == succeeded {
		t.Fatal("connected without a name server")
	}
	for generation, tt := range []struct {
		family string
		reply  byte
	}{{"auto", succeeded}, {"ipv4", hostUnreachable}, {"ipv6", succeeded}} {
		rewrite(t, config, text(resolverConfig(fmt.Sprintf("family = %q", tt.family), "udp://"+ns.udp)))
		d.signal(syscall.SIGHUP)
		d.waitLine("generation", fmt.Sprint(generation+2))
		if _, reply := connectName(t, d.address, "web.test", echo.Port()); reply != tt.reply {
			t.Errorf("family %s: reply %d, want %d", tt.family, reply, tt.reply)
		}
	}
}

// inNet runs ip, nft or sysctl in the tests' namespace.
func inNet(t *testing.T, command string) {
	t.Helper()
	fields := strings.Fields(command)
	if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// TestTimeToConnect reports how long black holes hold a connection up, from
// the request to the reply (goal: 300 ms).
func TestTimeToConnect(t *testing.T) {
	program(t, "nft", "nftables")
	for i := range 4 {
		inNet(t, fmt.Sprintf("ip addr add 198.51.100.%d/32 dev lo", i+1))
		t.Cleanup(func() { inNet(t, fmt.Sprintf("ip addr del 198.51.100.%d/32 dev lo", i+1)) })
	}
	inNet(t, "ip -6 addr add 2001:db8:6::1/128 dev lo nodad")
	t.Cleanup(func() { inNet(t, "ip -6 addr del 2001:db8:6::1/128 dev lo") })
	inNet(t, "nft add table inet holes")
	t.Cleanup(func() { inNet(t, "nft delete table inet holes") })
	inNet(t, "nft add chain inet holes in { type filter hook input priority 0 ; }")
	inNet(t, "nft add rule inet holes in ip6 daddr 2001:db8:6::1 tcp dport 1-65535 drop")
	inNet(t, "nft add rule inet holes in ip daddr 198.51.100.1 tcp dport 1-65535 drop")
	echo := echoServer(t, "0.0.0.0:0")
	ns := unbound(t, "both.test. 60 IN AAAA 2001:db8:6::1", "both.test. 60 IN A 198.51.100.2",
		"four.test. 60 IN A 198.51.100.1", "four.test. 60 IN A 198.51.100.2", "four.test. 60 IN A 198.51.100.3", "four.test. 60 IN A 198.51.100.4")
	d := start(t, resolverConfig("", "udp://"+ns.udp))
	for _, tt := range []struct{ what, name string }{
		{"IPv6 black-holed", "both.test"},
		{"IPv6 black-holed, the winner remembered", "both.test"},
		{"the first of four addresses dead", "four.test"},
	} {
		begun := time.Now()
		c, reply := connectName(t, d.address, tt.name, echo.Port())
		took := time.Since(begun)
		if reply != succeeded {
			t.Fatalf("%s: reply %d", tt.what, reply)
		}
		echoes(t, c, "through")
		t.Logf("%s: connected in %v (goal: 300 ms)", tt.what, took.Round(100*time.Microsecond))
	}
	if got := d.metric(`cleversocks_dial_attempts_count{family="ipv6"}`); !positive(got) {
		t.Errorf("dials with IPv6 attempts: %q", got)
	}
}

// TestFixedSourceAddress: with a source address, the ports are counted for
// each target, not once for all.
func TestFixedSourceAddress(t *testing.T) {
	// Not as many to each target as the range has ports: listeners and
	// connections of other tests may hold some.
	const ports, each = 40, 30
	one, two := echoServer(t, "127.0.0.1:0"), echoServer(t, "127.0.0.1:0")
	d := start(t, "[egress]\naddress = [\"127.0.0.9\"]\n")
	var clients []net.Conn // before the range is narrow for them as well
	for range 2 * each {
		c := dialProxy(t, d.address)
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		clients = append(clients, c)
	}
	portRange(t, fmt.Sprintf("40000 %d", 40000+ports-1))
	t.Cleanup(func() { portRange(t, "32768 60999") })
	for i, c := range clients {
		to := []netip.AddrPort{one, two}[i%2]
		if reply := request(t, c, 1, to); reply != succeeded {
			t.Fatalf("connection %d, to %s: reply %d", i+1, to, reply)
		}
	}
	t.Logf("%d connections from one address, over a range of %d ports", len(clients), ports)
	if got := d.settles(`cleversocks_connections_active{protocol="socks5"}`, fmt.Sprint(2*each)); got != fmt.Sprint(2*each) {
		t.Errorf("%s connections are open", got)
	}
}

// portRange sets the ports that the namespace's connections leave from.
func portRange(t *testing.T, ports string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(ports), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSystemResolver: resolv.conf with its search rules and the hosts file,
// both read again when they change.
func TestSystemResolver(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	unbound(t, "web.test. 60 IN A 127.0.0.1") // on port 53, too
	hosts := writeFile(t, "hosts", "127.0.0.1 localhost\n")
	conf := writeFile(t, "resolv.conf", "nameserver 127.0.0.1\n")
	mount := `mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"`
	d := startCommand(t, exec.Command(program(t, "unshare", "util-linux"), "-m", "sh", "-c", mount, "sh", conf, hosts,
		binary, "-p", "0", "--admin", "127.0.0.1:0", "--log-format", "json"))
	try := func(name string) byte {
		t.Helper()
		c, reply := connectName(t, d.address, name, echo.Port())
		c.Close()
		return reply
	}
	for name, found := range map[string]bool{"web.test": true, "web": false, "by-hosts": false} {
		if got := try(name); (got == succeeded) != found {
			t.Errorf("%s: reply %d", name, got)
		}
	}
	rewrite(t, conf, "search test\nnameserver 127.0.0.1\n")
	rewrite(t, hosts, "127.0.0.1 localhost\n127.0.0.1 by-hosts # added\n")
	for _, name := range []string{"web", "by-hosts"} {
		eventually(t, name+" is found after the change", func() bool { return try(name) == succeeded })
	}
	if got := d.metric(`cleversocks_dns_lookups_total{transport="hosts",outcome="ok"}`); !positive(got) {
		t.Errorf("look-ups in the hosts file: %q", got)
	}
}
