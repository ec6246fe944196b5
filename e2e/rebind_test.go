package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// rebinder is an authoritative server whose one name has another address at
// each question, with a TTL of 0.
type rebinder struct {
	mu      sync.Mutex
	answers []string
	asked   int
}

func (r *rebinder) next() net.IP {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer := r.answers[min(r.asked, len(r.answers)-1)]
	r.asked++
	return net.ParseIP(answer)
}

func (r *rebinder) questions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *rebinder) answer(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg)
	a.SetReply(q)
	a.Authoritative = true
	if q.Question[0].Qtype == dns.TypeA {
		a.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 0},
			A:   r.next(),
		}}
	}
	_ = w.WriteMsg(a)
}

func serveDNS(t *testing.T, h dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: h}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// A name that has a public address when it is judged and 127.0.0.1 when it
// would be asked again reaches the public one: what was judged is dialed, and
// nothing is asked twice. Asked anew, it is judged anew.
func TestRebinding(t *testing.T) {
	inside := echoServer(t, "127.0.0.1:0")
	outside := echoServer(t, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), inside.Port()).String())
	r := &rebinder{answers: []string{"192.0.2.1", "127.0.0.1"}}
	server := serveDNS(t, r.answer)
	d := start(t, fmt.Sprintf(`
[resolver]
servers = ["udp://%s"]
family = "ipv4"
cache = { serve_stale = "0s", prefetch = false }
[[acl.rule]]
action = "allow"
to = ["rebind.example"]
[[acl.rule]] # the test's outside is this host and a TEST-NET, which block_private denies
action = "allow"
to = ["192.0.2.1"]
`, server))
	ask := func() (net.Conn, byte) {
		c := dialProxy(t, d.address)
		send(t, c, 5, 1, 0)
		receive(t, c, 2)
		name := "rebind.example"
		msg := append([]byte{5, 1, 0, 3, byte(len(name))}, name...)
		send(t, c, append(msg, byte(inside.Port()>>8), byte(inside.Port()))...)
		return c, readReply(t, c)
	}
	c, code := ask()
	if code != 0 {
		t.Fatalf("reply %d", code)
	}
	echoes(t, c, "outside")
	if n := r.questions(); n != 1 {
		t.Errorf("asked %d times for one connection", n)
	}
	c.Close()
	record := d.find("of the connection", func(l line) bool { return l["msg"] == "connection" })
	if record.text("host_ip") != outside.String() {
		t.Errorf("dialed %v", record["host_ip"])
	}
	for range 3 {
		if _, code := ask(); code != 2 {
			t.Errorf("reply %d: an allowed name lifts block_private", code)
		}
	}
	if n := r.questions(); n < 2 {
		t.Errorf("asked %d times", n)
	}
	denied := d.find("of the denial", func(l line) bool { return l["msg"] == "connection" && l["cause"] == "denied" })
	if denied.text("rule") != "block_private" {
		t.Errorf("%v", denied)
	}
}
