package e2e

import (
	"net"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// listenDNS serves DNS over UDP on port 53 of an address.
func listenDNS(t *testing.T, address string, handler dns.HandlerFunc) {
	t.Helper()
	pc, err := net.ListenPacket("udp", address+":53")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: handler}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() { pc.Close(); <-done })
}

// aRecord answers a query for an A record, and says of others that there is none.
func aRecord(q *dns.Msg) *dns.Msg {
	a := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		a.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   net.IPv4(127, 0, 0, 1),
		}}
	}
	return a
}

// TestNamesAsLibc: with the same server scripts, whatever name libc's
// getaddrinfo finds is found through the proxy.
func TestNamesAsLibc(t *testing.T) {
	if _, err := exec.LookPath("getent"); err != nil {
		t.Fatal("getent is part of every libc, and not here:", err)
	}
	plainOnly := func(rcode int) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() != nil {
				_ = w.WriteMsg(new(dns.Msg).SetRcode(q, rcode))
				return
			}
			_ = w.WriteMsg(aRecord(q))
		}
	}
	var turn atomic.Int32
	for name, script := range map[string]struct {
		first, second dns.HandlerFunc
	}{
		"SERVFAIL to EDNS": {first: plainOnly(dns.RcodeServerFailure)},
		"REFUSED to EDNS":  {first: plainOnly(dns.RcodeRefused)},
		"FORMERR to EDNS":  {first: plainOnly(dns.RcodeFormatError)},
		"silence to EDNS": {first: func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() == nil {
				_ = w.WriteMsg(aRecord(q))
			}
		}},
		"letters in lower case, no TCP": {first: func(w dns.ResponseWriter, q *dns.Msg) {
			a := aRecord(q)
			a.Question[0].Name = strings.ToLower(a.Question[0].Name)
			_ = w.WriteMsg(a)
		}},
		"OPT among the answers": {first: func(w dns.ResponseWriter, q *dns.Msg) {
			a := aRecord(q)
			if opt := q.IsEdns0(); opt != nil {
				a.Answer = append([]dns.RR{opt}, a.Answer...)
			}
			_ = w.WriteMsg(a)
		}},
		"nonsense to EDNS": {first: func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() == nil {
				_ = w.WriteMsg(aRecord(q))
				return
			}
			_, _ = w.Write([]byte{byte(q.Id >> 8), byte(q.Id), 0x81, 0x80, 0, 1})
		}},
		"a datagram in two is lost": {first: func(w dns.ResponseWriter, q *dns.Msg) {
			if turn.Add(1)%2 == 0 {
				_ = w.WriteMsg(aRecord(q))
			}
		}},
		"the first server refuses": {
			first:  func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) },
			second: func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(aRecord(q)) },
		},
		"the second would deny": {
			first:  func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(aRecord(q)) },
			second: func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError)) },
		},
		"AAAA is not answered": {first: func(w dns.ResponseWriter, q *dns.Msg) {
			if q.Question[0].Qtype == dns.TypeA {
				_ = w.WriteMsg(aRecord(q))
			}
		}},
		"AAAA does not exist, A does": {first: func(w dns.ResponseWriter, q *dns.Msg) {
			a := aRecord(q)
			if q.Question[0].Qtype != dns.TypeA {
				a.Rcode = dns.RcodeNameError
			}
			_ = w.WriteMsg(a)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			echo := echoServer(t, "127.0.0.1:0")
			listenDNS(t, "127.0.0.1", script.first)
			conf := "nameserver 127.0.0.1\n"
			if script.second != nil {
				listenDNS(t, "127.0.0.2", script.second)
				conf += "nameserver 127.0.0.2\n"
			}
			d, inside := withSystemFiles(t, conf, "127.0.0.1 localhost\n", "")
			found := finds(t, inside("getent", "ahostsv4", "a-name.test"))
			c, reply := connectName(t, d.address, "a-name.test", echo.Port())
			if found && reply != succeeded {
				t.Errorf("libc finds the name, and the proxy answers %d", reply)
			}
			if !found {
				t.Log("libc does not find the name")
			}
			c.Close()
		})
	}
}

// finds reports that a command prints the address of the script's names.
func finds(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	out, err := cmd.CombinedOutput()
	return err == nil && strings.Contains(string(out), "127.0.0.1")
}
