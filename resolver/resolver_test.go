package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"cleversocks/metrics"
)

var compareAddrs = cmpopts.EquateComparable(netip.Addr{})

func TestLookup(t *testing.T) {
	f := newFake(t, zone(t, map[string][]string{
		"both.test.":  {"both.test. 60 IN A 192.0.2.1", "both.test. 60 IN A 192.0.2.2", "both.test. 60 IN AAAA 2001:db8::1"},
		"four.test.":  {"four.test. 60 IN A 192.0.2.1"},
		"alias.test.": {"alias.test. 60 IN CNAME a2.test.", "a2.test. 60 IN CNAME four.test.", "four.test. 60 IN A 192.0.2.1"},
	}))
	for _, transport := range []string{"udp", "tcp"} {
		r := newResolver(t, testOptions(t, transport+"://"+f.addr.String()))
		for _, tt := range []struct {
			name   string
			family Family
			want   []netip.Addr
			err    error
		}{
			{"both.test", IPv4, addrs("192.0.2.1", "192.0.2.2"), nil},
			{"both.test", IPv6, addrs("2001:db8::1"), nil},
			{"four.test", IPv6, nil, ErrNotFound},
			{"alias.test", IPv4, addrs("192.0.2.1"), nil},
			{"none.test", IPv4, nil, ErrNotFound},
			{"localhost", IPv4, addrs("127.0.0.1"), nil},
			{"a.localhost", IPv6, addrs("::1"), nil},
			{"x.invalid", IPv4, nil, ErrNotFound},
			{"x.onion", IPv4, nil, ErrNotFound},
			{"192.0.2.9", IPv4, addrs("192.0.2.9"), nil},
			{"192.0.2.9", IPv6, nil, ErrNotFound},
			{"2001:db8::9", IPv6, addrs("2001:db8::9"), nil},
			{"here.test", IPv4, addrs("192.0.2.7"), nil},
			{"here.test", IPv6, addrs("2001:db8::7"), nil},
			{"here", IPv6, nil, ErrNotFound}, // in the hosts file, for IPv4 alone
		} {
			t.Run(fmt.Sprintf("%s/%s/%s", transport, tt.name, tt.family), func(t *testing.T) {
				for range 2 { // the second from the cache
					got, err := r.Lookup(t.Context(), tt.name, tt.family)
					if !errors.Is(err, tt.err) {
						t.Fatalf("error %v, want %v", err, tt.err)
					}
					if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
						t.Error(diff)
					}
				}
			})
		}
	}
	count := map[string]int{}
	for _, q := range f.questions() {
		count[q.Name]++
	}
	want := map[string]int{"both.test.": 4, "four.test.": 2, "alias.test.": 2, "none.test.": 2}
	if diff := cmp.Diff(want, count); diff != "" {
		t.Errorf("questions that reached the server, over two transports: %s", diff)
	}
}

// TestHostsFirst: localhost went to ::1 although the hosts file knows only
// 127.0.0.1, on a host whose services listen nowhere else. As with libc, a name
// has the families that it has in the hosts file, and names below localhost
// those of localhost.
func TestHostsFirst(t *testing.T) {
	opts := testOptions(t, "udp://192.0.2.53")
	writeFile(t, opts.Hosts, "127.0.0.1 localhost\n::2 x.localhost\n")
	r := newResolver(t, opts)
	for _, tt := range []struct {
		name   string
		family Family
		want   []netip.Addr
	}{
		{"localhost", IPv4, addrs("127.0.0.1")},
		{"localhost", IPv6, nil},
		{"a.localhost", IPv4, addrs("127.0.0.1")},
		{"a.localhost", IPv6, nil},
		{"x.localhost", IPv6, addrs("::2")},
	} {
		got, err := r.Lookup(t.Context(), tt.name, tt.family)
		if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" || (tt.want == nil) != errors.Is(err, ErrNoAddress) {
			t.Errorf("%s, %s: %v %s", tt.name, tt.family, err, diff)
		}
	}
}

// TestTruncated asks over TCP what did not fit a datagram.
func TestTruncated(t *testing.T) {
	f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, network string) {
		if network == "udp" {
			reply := replyTo(t, m)
			reply.Truncated = true
			write(t, w, reply)
			return
		}
		write(t, w, replyTo(t, m, "big.test. 60 IN A 192.0.2.1"))
	})
	r := newResolver(t, testOptions(t, "udp://"+f.addr.String()))
	got, err := r.Lookup(t.Context(), "big.test", IPv4)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(addrs("192.0.2.1"), got, compareAddrs); diff != "" {
		t.Error(diff)
	}
}

// TestFailover asks the next server when the first refuses or is not there.
func TestFailover(t *testing.T) {
	refusing := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, _ string) {
		reply := replyTo(t, m)
		reply.Rcode = dns.RcodeServerFailure
		write(t, w, reply)
	})
	good := newFake(t, zone(t, map[string][]string{"a.test.": {"a.test. 60 IN A 192.0.2.1"}}))
	opts := testOptions(t, "udp://"+refusing.addr.String(), "tcp://127.0.0.1:1", "udp://"+good.addr.String())
	r := newResolver(t, opts)
	if _, err := r.Lookup(t.Context(), "a.test", IPv4); err != nil {
		t.Fatal(err)
	}
	due := []bool{false, true, false} // a refusal is an answer, a closed port is not
	for i, s := range r.state.Load().servers {
		if got := s.probeDue(time.Now()); got != due[i] {
			t.Errorf("%s: to be probed %t, want %t", s.id, got, due[i])
		}
	}
	if got := opts.Metrics.Lookups.Of("tcp", metrics.DNSError).Get(); got != 1 {
		t.Errorf("failed queries over TCP: %d, want 1", got)
	}
}

// TestAllFail tells a failure apart from a name that does not exist, and
// remembers it for a moment.
func TestAllFail(t *testing.T) {
	f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, _ string) {
		reply := replyTo(t, m)
		reply.Rcode = dns.RcodeRefused
		write(t, w, reply)
	})
	r := newResolver(t, testOptions(t, "udp://"+f.addr.String()))
	for range 3 {
		if _, err := r.Lookup(t.Context(), "a.test", IPv4); !errors.Is(err, ErrServers) {
			t.Fatalf("error %v, want %v", err, ErrServers)
		}
	}
	if n := len(f.questions()); n != 2 {
		t.Errorf("%d questions reached the server, want 2: with EDNS and without", n)
	}
}

// TestCancel leaves a query that others wait for alone, and ends one that
// nobody waits for.
func TestCancel(t *testing.T) {
	asked, proceed := make(chan struct{}, 8), make(chan struct{})
	f := newFake(t, func(w dns.ResponseWriter, m *dns.Msg, _ string) {
		asked <- struct{}{}
		<-proceed
		write(t, w, replyTo(t, m, "a.test. 60 IN A 192.0.2.1"))
	})
	opts := testOptions(t, "tcp://"+f.addr.String())
	r := newResolver(t, opts)
	first, leave := context.WithCancel(t.Context())
	left, stayed := make(chan error, 1), make(chan error, 1)
	go func() { _, err := r.Lookup(first, "a.test", IPv4); left <- err }()
	<-asked
	go func() { _, err := r.Lookup(t.Context(), "a.test", IPv4); stayed <- err }()
	for opts.Metrics.Cache.Of(metrics.CacheShared).Get() == 0 {
		runtime.Gosched() // until the second one has joined
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	close(proceed)
	if err := <-stayed; err != nil {
		t.Errorf("who stayed: %v", err)
	}
	if n := len(f.questions()); n != 1 {
		t.Errorf("%d questions, want 1", n)
	}
}
