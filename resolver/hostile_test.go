package resolver

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// TestForged sends wrong datagrams before the right one: only that counts.
func TestForged(t *testing.T) {
	flip := func(name string) string { // another case for the first letter
		return string(name[0]^0x20) + name[1:]
	}
	for _, tt := range []struct {
		reason string // the metric
		forge  func(t *testing.T, m *dns.Msg) []byte
	}{
		{"id", func(t *testing.T, m *dns.Msg) []byte {
			t.Helper()
			reply := replyTo(t, m, "a.test. 60 IN A 203.0.113.66")
			reply.Id ^= 1
			return pack(t, reply)
		}},
		{"case", func(t *testing.T, m *dns.Msg) []byte {
			t.Helper()
			reply := replyTo(t, m, "a.test. 60 IN A 203.0.113.66")
			reply.Question[0].Name = flip(reply.Question[0].Name)
			return pack(t, reply)
		}},
		{"question", func(t *testing.T, m *dns.Msg) []byte {
			t.Helper()
			reply := replyTo(t, m, "b.test. 60 IN A 203.0.113.66")
			reply.Question[0].Name = "b.test."
			return pack(t, reply)
		}},
		{"question", func(t *testing.T, m *dns.Msg) []byte {
			t.Helper()
			reply := replyTo(t, m)
			reply.Question[0].Qtype = dns.TypeAAAA
			return pack(t, reply)
		}},
		{"question", func(t *testing.T, m *dns.Msg) []byte {
			t.Helper()
			reply := replyTo(t, m)
			reply.Question = nil
			return pack(t, reply)
		}},
		{"malformed", func(t *testing.T, m *dns.Msg) []byte {
			t.Helper()
			return pack(t, m) // the query itself, reflected
		}},
		{"malformed", func(t *testing.T, m *dns.Msg) []byte {
			t.Helper()
			return pack(t, replyTo(t, m, "a.test. 60 IN A 203.0.113.66"))[:15]
		}},
		{"malformed", func(*testing.T, *dns.Msg) []byte { return []byte{0x80} }},
	} {
		f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, _ string) {
			if _, err := w.Write(tt.forge(t, m.Copy())); err != nil {
				t.Error(err)
			}
			write(t, w, replyTo(t, m, "a.test. 60 IN A 192.0.2.1"))
		})
		opts := testOptions(t, "udp://"+f.addr.String())
		got, err := newResolver(t, opts).Lookup(t.Context(), "a.test", IPv4)
		if err != nil {
			t.Errorf("%s: %v", tt.reason, err)
		}
		if diff := cmp.Diff(addrs("192.0.2.1"), got, compareAddrs); diff != "" {
			t.Errorf("%s: %s", tt.reason, diff)
		}
		if n := opts.Metrics.Dropped.Of(tt.reason).Get(); n != 1 {
			t.Errorf("%s: %d answers dropped for it, want 1", tt.reason, n)
		}
	}
}

func pack(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return raw
}

// TestFlood asks over TCP once too many wrong datagrams came.
func TestFlood(t *testing.T) {
	f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, network string) {
		if network == "tcp" {
			write(t, w, replyTo(t, m, "a.test. 60 IN A 192.0.2.1"))
			return
		}
		for range maxForged + 8 {
			forged := replyTo(t, m, "a.test. 60 IN A 203.0.113.66")
			forged.Id++
			write(t, w, forged)
		}
	})
	got, err := newResolver(t, testOptions(t, "udp://"+f.addr.String())).Lookup(t.Context(), "a.test", IPv4)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(addrs("192.0.2.1"), got, compareAddrs); diff != "" {
		t.Error(diff)
	}
}

// TestLowercasing asks a server that does not keep the letters' case over TCP.
func TestLowercasing(t *testing.T) {
	f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, _ string) {
		reply := replyTo(t, m, "long-name-with-letters.test. 60 IN A 192.0.2.1")
		reply.Question[0].Name = strings.ToLower(reply.Question[0].Name)
		write(t, w, reply)
	})
	r := newResolver(t, testOptions(t, "udp://"+f.addr.String()))
	if _, err := r.Lookup(t.Context(), "long-name-with-letters.test", IPv4); err != nil {
		t.Fatal(err)
	}
}

// TestNoEDNS asks again without EDNS when a server does not know it.
func TestNoEDNS(t *testing.T) {
	f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, _ string) {
		if m.IsEdns0() != nil {
			reply := new(dns.Msg)
			reply.SetRcodeFormatError(m)
			write(t, w, reply)
			return
		}
		write(t, w, replyTo(t, m, "a.test. 60 IN A 192.0.2.1"))
	})
	for _, transport := range []string{"udp", "tcp"} {
		r := newResolver(t, testOptions(t, transport+"://"+f.addr.String()))
		if _, err := r.Lookup(t.Context(), "a.test", IPv4); err != nil {
			t.Errorf("%s: %v", transport, err)
		}
	}
}

// TestQuery holds what makes a query hard to answer for a stranger.
func TestQuery(t *testing.T) {
	q := question{name: "a-name-of-many-letters.example.test", qtype: dns.TypeA}
	ids, names := make(map[uint16]bool), make(map[string]bool)
	for range 64 {
		m := q.query(hardening{edns: true, mixed: true}).msg
		ids[m.Id], names[m.Question[0].Name] = true, true
		if !strings.EqualFold(m.Question[0].Name, q.name+".") {
			t.Fatalf("asks for %s", m.Question[0].Name)
		}
		if opt := m.IsEdns0(); opt == nil || opt.UDPSize() != ednsSize {
			t.Fatalf("EDNS0: %v", opt)
		}
	}
	if len(ids) < 60 || len(names) < 60 {
		t.Errorf("64 queries have %d ids and %d spellings", len(ids), len(names))
	}
}

// TestRandomPorts: two queries leave from two ports.
func TestRandomPorts(t *testing.T) {
	ports := make(chan netip.AddrPort, 16)
	f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, _ string) {
		ports <- w.RemoteAddr().(*net.UDPAddr).AddrPort()
		reply := replyTo(t, m)
		reply.Rcode = dns.RcodeNameError // without an SOA: not cached
		write(t, w, reply)
	})
	r := newResolver(t, testOptions(t, "udp://"+f.addr.String()))
	seen := make(map[uint16]bool)
	for range 8 {
		if _, err := r.Lookup(t.Context(), "a.test", IPv4); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		seen[(<-ports).Port()] = true
	}
	if len(seen) < 4 {
		t.Errorf("8 queries left from %d ports", len(seen))
	}
}
