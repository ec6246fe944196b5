package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// silentNetwork makes 203.0.113.0/24 one whose hosts never answer: what goes
// there leaves by a link with nobody at its other end.
func silentNetwork(t *testing.T) {
	t.Helper()
	ip := func(args ...string) {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	ip("neigh", "replace", "192.0.2.254", "lladdr", "02:00:00:00:00:fe", "dev", "e2e0", "nud", "permanent")
	ip("route", "replace", "203.0.113.0/24", "via", "192.0.2.254", "dev", "e2e0")
	t.Cleanup(func() { ip("route", "del", "203.0.113.0/24"); ip("neigh", "del", "192.0.2.254", "dev", "e2e0") })
}

// TestNamesTakeNoDescriptors: with 512 descriptors, 110 requests for names that
// no server answers took all of them as DNS sockets, and so did 40 for names with
// 64 silent addresses, which were tried 40 at a time. Others must be served all
// the while, by the same address too.
func TestNamesTakeNoDescriptors(t *testing.T) {
	silentNetwork(t)
	echo := echoServer(t, "127.0.0.1:0")
	server := serveDNS(t, func(w dns.ResponseWriter, q *dns.Msg) {
		name := strings.ToLower(q.Question[0].Name)
		if strings.HasSuffix(name, ".silent.test.") {
			return
		}
		a := new(dns.Msg).SetReply(q)
		first, count := net.IPv4(127, 0, 0, 1).To4(), 1
		if strings.HasSuffix(name, ".many.test.") {
			first, count = net.IPv4(203, 0, 113, 1).To4(), 64
		}
		for i := range count {
			if q.Question[0].Qtype == dns.TypeA {
				a.Answer = append(a.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
					A:   net.IPv4(first[0], first[1], first[2], first[3]+byte(i)),
				})
			}
		}
		_ = w.WriteMsg(a)
	})
	config := writeFile(t, "c.toml", fmt.Sprintf(`
[[listener]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[resolver]
servers = ["udp://%s"]
[acl]
block_private = false
`, server))
	for _, tt := range []struct {
		domain string
		count  int
	}{{"silent.test", 110}, {"many.test", 40}} {
		d := startCommand(t, exec.Command("sh", "-c", `ulimit -n 512 && exec "$@"`, "sh", binary, "--config", config, "--log-format", "json"))
		var asking []net.Conn
		for i := range tt.count {
			c := dialProxy(t, d.address)
			name := fmt.Sprintf("n%d.%s", i, tt.domain)
			send(t, c, append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(name))}, append([]byte(name), 0, 80)...)...)
			asking = append(asking, c)
		}
		for _, c := range asking {
			receive(t, c, 2) // its request is being carried out now
		}
		for i := range 5 {
			c, reply := connectName(t, d.address, fmt.Sprintf("good%d-%s", i, tt.domain), echo.Port())
			if reply != succeeded {
				t.Errorf("among %d requests for names of %s, another one got reply %d", tt.count, tt.domain, reply)
				continue
			}
			echoes(t, c, "served")
			c.Close()
		}
		if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Cmd.Process.Pid)); err != nil || len(open) > 400 {
			t.Errorf("%d descriptors are open: %v", len(open), err)
		} else {
			t.Logf("%d requests for names of %s: %d descriptors", tt.count, tt.domain, len(open))
		}
		for _, c := range asking {
			c.Close()
		}
		for _, word := range []string{"too many open files", "out of descriptors"} {
			if strings.Contains(d.log(), word) {
				t.Errorf("the log speaks of %q", word)
			}
		}
	}
}
