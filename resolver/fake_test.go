package resolver

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"cleversocks/metrics"
)

// fake is a name server on loopback that answers as its handler says, over
// UDP and TCP on one port.
type fake struct {
	addr netip.AddrPort

	mu    sync.Mutex
	asked []dns.Question
}

// questions are those that came so far, in lower case.
func (f *fake) questions() []dns.Question {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]dns.Question(nil), f.asked...)
}

// newFake serves with a handler. The handler's network is "udp" or "tcp".
func newFake(t *testing.T, handle func(w dns.ResponseWriter, m *dns.Msg, network string)) *fake {
	t.Helper()
	pc, l := samePort(t)
	f := &fake{addr: pc.LocalAddr().(*net.UDPAddr).AddrPort()}
	serve := func(srv *dns.Server, network string) {
		ready := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(ready) }
		srv.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
			f.mu.Lock()
			q := m.Question[0]
			q.Name = dns.CanonicalName(q.Name)
			f.asked = append(f.asked, q)
			f.mu.Unlock()
			handle(w, m, network)
		})
		done := make(chan error, 1)
		go func() { done <- srv.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() {
			if err := srv.Shutdown(); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	serve(&dns.Server{PacketConn: pc}, "udp")
	serve(&dns.Server{Listener: l}, "tcp")
	return f
}

// samePort listens on one port for UDP and TCP.
func samePort(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	var failure error
	for range 20 { // the port that UDP got may be taken for TCP
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, l
		}
		failure = errors.Join(err, pc.Close())
	}
	t.Fatal(failure)
	return nil, nil
}

// replyTo is an answer to a query with records in zone-file form.
func replyTo(t *testing.T, m *dns.Msg, records ...string) *dns.Msg {
	t.Helper()
	reply := new(dns.Msg)
	reply.SetReply(m)
	reply.RecursionAvailable = true
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if rr.Header().Rrtype == dns.TypeSOA {
			reply.Ns = append(reply.Ns, rr)
		} else {
			reply.Answer = append(reply.Answer, rr)
		}
	}
	return reply
}

func write(t *testing.T, w dns.ResponseWriter, m *dns.Msg) {
	t.Helper()
	if err := w.WriteMsg(m); err != nil {
		t.Logf("fake: %v", err) // who asked has gone: a cancelled query
	}
}

// zone answers A and AAAA from a table of records by name; other names do not
// exist.
func zone(t *testing.T, records map[string][]string) func(dns.ResponseWriter, *dns.Msg, string) {
	t.Helper()
	return func(w dns.ResponseWriter, m *dns.Msg, _ string) {
		q := m.Question[0]
		list, ok := records[dns.CanonicalName(q.Name)]
		reply := replyTo(t, m, "test. 60 IN SOA ns.test. root.test. 1 2 3 4 20")
		if !ok {
			reply.Rcode = dns.RcodeNameError
		}
		for _, text := range list {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Error(err)
				continue
			}
			if rr.Header().Rrtype == q.Qtype || rr.Header().Rrtype == dns.TypeCNAME {
				reply.Answer = append(reply.Answer, rr)
			}
		}
		write(t, w, reply)
	}
}

// testOptions are options whose files are the test's own.
func testOptions(t *testing.T, servers ...string) Options {
	t.Helper()
	dir := t.TempDir()
	opts := Options{
		Servers: servers,
		Timeout: 5 * time.Second,
		Cache: CacheOptions{
			Size: 1000, MaxTTL: time.Hour, NegativeTTL: 30 * time.Second, ServeStale: time.Hour, Prefetch: true,
		},
		ResolvConf: filepath.Join(dir, "resolv.conf"),
		Hosts:      filepath.Join(dir, "hosts"),
		Logger:     slog.New(slog.DiscardHandler),
		Metrics:    metrics.New().DNS,
	}
	writeFile(t, opts.ResolvConf, "nameserver 127.0.0.1\n")
	writeFile(t, opts.Hosts, "192.0.2.7 Here.test here\n2001:db8::7 here.test\n")
	return opts
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func newResolver(t *testing.T, opts Options) *Resolver {
	t.Helper()
	r, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}
