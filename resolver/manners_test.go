package resolver

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"cleversocks/metrics"
)

// withOPT puts the OPT record that a query would get back somewhere else.
func withOPT(m *dns.Msg) *dns.OPT {
	opt := m.SetEdns0(ednsSize, false).IsEdns0()
	m.Extra = nil
	return opt
}

// TestServersWithoutManners: whatever a server makes of EDNS, of letters in
// random case or of TCP, a name that libc finds there with its plain query is
// found here too, and from the third look-up on without asking in vain.
func TestServersWithoutManners(t *testing.T) {
	const record = "a-name.test. 60 IN A 192.0.2.1"
	code := func(rcode int) func(*testing.T, dns.ResponseWriter, *dns.Msg, string) {
		return func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, _ string) {
			t.Helper()
			if m.IsEdns0() == nil {
				write(t, w, replyTo(t, m, record))
				return
			}
			write(t, w, new(dns.Msg).SetRcode(m, rcode))
		}
	}
	for name, tt := range map[string]struct {
		serve func(*testing.T, dns.ResponseWriter, *dns.Msg, string)
		most  int // queries of a look-up once the server is known
	}{
		"FORMERR":  {code(dns.RcodeFormatError), 1},
		"SERVFAIL": {code(dns.RcodeServerFailure), 1},
		"REFUSED":  {code(dns.RcodeRefused), 1},
		"NOTIMP":   {code(dns.RcodeNotImplemented), 1},
		"FORMERR without the question": {func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, _ string) {
			t.Helper()
			if m.IsEdns0() == nil {
				write(t, w, replyTo(t, m, record))
				return
			}
			reply := new(dns.Msg).SetRcode(m, dns.RcodeFormatError)
			reply.Question = nil
			write(t, w, reply)
		}, 1},
		"silence": {func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, _ string) {
			t.Helper()
			if m.IsEdns0() == nil {
				write(t, w, replyTo(t, m, record))
			}
		}, 1},
		"nonsense": {func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, _ string) {
			t.Helper()
			if m.IsEdns0() == nil {
				write(t, w, replyTo(t, m, record))
				return
			}
			_, _ = w.Write(append(binary.BigEndian.AppendUint16(nil, m.Id), 0x81, 0x80, 0, 9, 0, 0, 0, 0, 0, 0))
		}, 1},
		"OPT among the answers": {func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, _ string) {
			t.Helper()
			reply := replyTo(t, m, record)
			reply.Answer = append([]dns.RR{withOPT(new(dns.Msg))}, reply.Answer...)
			write(t, w, reply)
		}, 1},
		"OPT in the authority section": {func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, _ string) {
			t.Helper()
			reply := replyTo(t, m, record)
			reply.Ns = append(reply.Ns, withOPT(new(dns.Msg)))
			write(t, w, reply)
		}, 1},
		"letters in lower case, and no TCP": {func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, network string) {
			t.Helper()
			if network == "tcp" {
				w.Close()
				return
			}
			reply := replyTo(t, m, record)
			reply.Question[0].Name = strings.ToLower(reply.Question[0].Name)
			write(t, w, reply)
		}, 1},
		"nothing for letters in mixed case": {func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, _ string) {
			t.Helper()
			if name := m.Question[0].Name; name == strings.ToLower(name) {
				write(t, w, replyTo(t, m, record))
			}
		}, 2},
		"truncated, and no TCP": {func(t *testing.T, w dns.ResponseWriter, m *dns.Msg, network string) {
			t.Helper()
			if network == "tcp" {
				w.Close()
				return
			}
			reply := replyTo(t, m, record)
			reply.Truncated = true
			write(t, w, reply)
		}, 1 + maxBarren}, // it may have TCP the next time
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, network string) { tt.serve(t, w, m, network) })
			opts := testOptions(t, "udp://"+f.addr.String())
			opts.Cache.ServeStale, opts.Timeout = 0, 10*time.Second
			r := newResolver(t, opts)
			before := 0
			for range 5 {
				before = len(f.questions())
				if _, err := r.Lookup(t.Context(), "a-name.test", IPv4); err != nil {
					t.Fatal(err)
				}
				r.Flush("a-name.test")
			}
			if asked := len(f.questions()) - before; asked > tt.most {
				t.Errorf("the last look-up cost %d queries, want at most %d: it is not remembered what the server cannot do", asked, tt.most)
			}
		})
	}
}

// rawStream serves DNS over TCP by a function that is given each connection.
func rawStream(t *testing.T, serve func(c net.Conn)) (address string, connections *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			go func() { defer c.Close(); serve(c) }()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), connections
}

// answerOne reads a query from a stream and answers it.
func answerOne(c net.Conn) error {
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	raw := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(c, raw); err != nil {
		return err
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		return err
	}
	reply := new(dns.Msg).SetReply(m)
	rr, err := dns.NewRR(m.Question[0].Name + " 60 IN A 192.0.2.1")
	if err != nil {
		return err
	}
	reply.Answer = []dns.RR{rr}
	out, err := reply.Pack()
	if err != nil {
		return err
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	return err
}

// TestServerEndsConnections: a query that meets the end of its connection is
// asked again on another one, that of the connection's opener too. Of twenty
// names asked for at once, thirteen failed with a server that closes after each
// answer.
func TestServerEndsConnections(t *testing.T) {
	for name, serve := range map[string]func(c net.Conn){
		"after each answer": func(c net.Conn) { _ = answerOne(c) },
		"after two":         func(c net.Conn) { _ = errors.Join(answerOne(c), answerOne(c)) },
	} {
		t.Run(name, func(t *testing.T) {
			address, connections := rawStream(t, serve)
			r := newResolver(t, testOptions(t, "tcp://"+address))
			failed := make(chan error, 20)
			for i := range 20 {
				go func() {
					_, err := r.Lookup(t.Context(), string(rune('a'+i))+".test", IPv4)
					failed <- err
				}()
			}
			for range 20 {
				if err := <-failed; err != nil {
					t.Error(err)
				}
			}
			if n := connections.Load(); n > 40 {
				t.Errorf("%d connections for 20 names", n)
			}
		})
	}
}

// TestServerTakesNoQuery ends, with an error, when the server ends every
// connection without an answer.
func TestServerTakesNoQuery(t *testing.T) {
	address, connections := rawStream(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	opts := testOptions(t, "tcp://"+address)
	r := newResolver(t, opts)
	if _, err := r.Lookup(t.Context(), "a.test", IPv4); !errors.Is(err, ErrServers) {
		t.Errorf("%v, want %v", err, ErrServers)
	}
	if n := connections.Load(); n > 4 {
		t.Errorf("%d connections for one query", n)
	}
	if n := opts.Metrics.Lookups.Of("tcp", metrics.DNSError).Get(); n != 1 {
		t.Errorf("%d failed queries counted, want 1", n)
	}
}
