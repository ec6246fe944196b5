package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/e2e/need"
	"cleversocks/metrics"
	"cleversocks/resolver"
)

func closeIt(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// listen is a real listener that accepts and holds connections.
func listen(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer closeIt(t, c)
		}
	}()
	t.Cleanup(func() { closeIt(t, l); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func lookupTable(table map[string][]netip.Addr) func(context.Context, string, resolver.Family) ([]netip.Addr, error) {
	return func(_ context.Context, name string, family resolver.Family) ([]netip.Addr, error) {
		var out []netip.Addr
		for _, a := range table[name] {
			if resolver.FamilyOf(a) == family {
				out = append(out, a)
			}
		}
		if len(out) == 0 {
			return nil, resolver.ErrNotFound
		}
		return out, nil
	}
}

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}

func TestDialLoopback(t *testing.T) {
	open, shut := listen(t, "127.0.0.1:0"), need.Refusing(t)
	six := listen(t, "[::1]:0")
	denied := errors.New("not there")
	d := New(Options{
		Lookup: lookupTable(map[string][]netip.Addr{
			"four.test":   addrs("127.0.0.1"),
			"six.test":    addrs("::1"),
			"mapped.test": addrs("::ffff:127.0.0.1"),
			"both.test":   addrs("127.0.0.1", "::1"),
		}),
		ConnectTimeout: 30 * time.Second, NoDelay: true, Metrics: metrics.New().Dial,
	})
	for _, tt := range []struct {
		name  string
		dest  wire.Addr
		judge func(netip.Addr) error
		want  error
		code  string
	}{
		{name: "literal", dest: wire.FromAddrPort(open), code: metrics.DialOK},
		{name: "literal IPv6", dest: wire.FromAddrPort(six), code: metrics.DialOK},
		{name: "name", dest: wire.Addr{Name: "four.test", Port: open.Port()}, code: metrics.DialOK},
		{name: "name with IPv6", dest: wire.Addr{Name: "six.test", Port: six.Port()}, code: metrics.DialOK},
		{name: "mapped answer", dest: wire.Addr{Name: "mapped.test", Port: open.Port()}, code: metrics.DialOK},
		{name: "one family refuses", dest: wire.Addr{Name: "both.test", Port: open.Port()}, code: metrics.DialOK},
		{name: "refused", dest: wire.FromAddrPort(shut), want: syscall.ECONNREFUSED, code: metrics.DialRefused},
		{name: "all refused", dest: wire.Addr{Name: "both.test", Port: shut.Port()}, want: syscall.ECONNREFUSED, code: metrics.DialRefused},
		{name: "no such name", dest: wire.Addr{Name: "no.test", Port: 80}, want: resolver.ErrNotFound, code: metrics.DialNotFound},
		{name: "port 0", dest: wire.Addr{Name: "four.test"}, want: ErrNoUsableAddress, code: metrics.DialNotFound},
		{name: "unspecified", dest: wire.Addr{IP: netip.MustParseAddr("0.0.0.0"), Port: open.Port()}, want: ErrNoUsableAddress, code: metrics.DialNotFound},
		{name: "unspecified IPv6", dest: wire.Addr{IP: netip.MustParseAddr("::"), Port: open.Port()}, want: ErrNoUsableAddress, code: metrics.DialNotFound},
		{name: "multicast", dest: wire.Addr{IP: netip.MustParseAddr("224.0.0.1"), Port: open.Port()}, want: ErrNoUsableAddress, code: metrics.DialNotFound},
		{
			name: "denied literal", dest: wire.FromAddrPort(open), want: denied, code: metrics.DialDenied,
			judge: func(netip.Addr) error { return denied },
		},
		{
			name: "denied name", dest: wire.Addr{Name: "both.test", Port: open.Port()}, want: denied, code: metrics.DialDenied,
			judge: func(netip.Addr) error { return denied },
		},
		{
			name: "one of two denied", dest: wire.Addr{Name: "both.test", Port: open.Port()}, code: metrics.DialOK,
			judge: func(a netip.Addr) error {
				if a.Is6() {
					return denied
				}
				return nil
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := d.Dial(t.Context(), Request{Dest: tt.dest, Judge: tt.judge})
			if err == nil {
				if got := c.RemoteAddr().(*net.TCPAddr).AddrPort().Port(); got != tt.dest.Port {
					t.Errorf("connected to port %d, want %d", got, tt.dest.Port)
				}
				closeIt(t, c)
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if got := Classify(err); got != tt.code {
				t.Errorf("outcome %q of %v, want %q", got, err, tt.code)
			}
			if err != nil && !strings.Contains(err.Error(), tt.dest.String()) {
				t.Errorf("error %q does not name %s", err, tt.dest)
			}
		})
	}
}

func TestDialFamily(t *testing.T) {
	open := listen(t, "127.0.0.1:0")
	lookup := lookupTable(map[string][]netip.Addr{"both.test": addrs("::1", "127.0.0.1")})
	dest := wire.Addr{Name: "both.test", Port: open.Port()}
	c, err := New(Options{Lookup: lookup, Family: FamilyIPv4}).Dial(t.Context(), Request{Dest: dest})
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, c)
	if _, err = New(Options{Lookup: lookup, Family: FamilyIPv6}).Dial(t.Context(), Request{Dest: dest}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("IPv6 alone: %v, want refused", err)
	}
	if _, err = New(Options{Family: FamilyIPv6}).Dial(t.Context(), Request{Dest: wire.FromAddrPort(open)}); !errors.Is(err, ErrNoUsableAddress) {
		t.Errorf("literal of the family turned off: %v", err)
	}
	if _, err = New(Options{}).Dial(t.Context(), Request{Dest: dest}); !errors.Is(err, ErrNoUsableAddress) {
		t.Errorf("name without a resolver: %v", err)
	}
}

func TestDialCancelledContext(t *testing.T) {
	gone := errors.New("client left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	_, err := New(Options{}).Dial(ctx, Request{Dest: wire.FromAddrPort(listen(t, "127.0.0.1:0"))})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, gone) {
		t.Errorf("error %v, want cancellation and its cause", err)
	}
	if Classify(err) != metrics.DialCancelled {
		t.Errorf("outcome %q", Classify(err))
	}
}

// A name server that refused was counted as a destination that had.
func TestNameServersErrnoIsNotTheDestinations(t *testing.T) {
	for _, tt := range []struct {
		lookup error
		want   string
	}{
		{resolver.ErrServers, metrics.DialError},
		{resolver.ErrTimeout, metrics.DialTimeout},
		{resolver.ErrNotFound, metrics.DialNotFound},
	} {
		for _, errno := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ETIMEDOUT} {
			err := fmt.Errorf("dial: %w", fmt.Errorf("%w: %w", tt.lookup, errno))
			if got := Classify(err); got != tt.want {
				t.Errorf("%v: %q, want %q", err, got, tt.want)
			}
		}
	}
}

// What a firewall answers depends on the family: a connection that it prohibits was
// an error of unknown kind over IPv6.
func TestProhibitedIsUnreachable(t *testing.T) {
	for _, errno := range []error{syscall.EHOSTUNREACH, syscall.EACCES, syscall.EHOSTDOWN, syscall.ENETUNREACH, syscall.ENETDOWN} {
		if got := Classify(fmt.Errorf("dial: %w", errno)); got != metrics.DialUnreachable {
			t.Errorf("%v: %q", errno, got)
		}
	}
}

// TestWorse holds the order in which failures are told.
func TestWorse(t *testing.T) {
	ladder := []error{
		nil, resolver.ErrNotFound, resolver.ErrServers, &DeniedError{Err: errors.New("rule")},
		syscall.ENETUNREACH, syscall.EPERM, os.ErrDeadlineExceeded, syscall.EHOSTUNREACH,
		syscall.ECONNREFUSED, syscall.EMFILE,
	}
	for i, low := range ladder {
		for _, high := range ladder[i+1:] {
			if got := worse(low, high); !errors.Is(got, high) {
				t.Errorf("worse(%v, %v) = %v", low, high, got)
			}
			if got := worse(high, low); !errors.Is(got, high) {
				t.Errorf("worse(%v, %v) = %v", high, low, got)
			}
		}
	}
}

// TestDialResolver dials a name with a real resolver, as the daemon does.
func TestDialResolver(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 here.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := resolver.New(t.Context(), resolver.Options{Hosts: hosts})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	open := listen(t, "127.0.0.1:0")
	d := New(Options{Lookup: res.Lookup, ConnectTimeout: 30 * time.Second})
	c, err := d.Dial(t.Context(), Request{Dest: wire.Addr{Name: "here.test", Port: open.Port()}})
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, c)
	if _, err = d.Dial(t.Context(), Request{Dest: wire.Addr{Name: "x.invalid", Port: 80}}); !errors.Is(err, resolver.ErrNotFound) {
		t.Errorf("a name that cannot exist: %v", err)
	}
}
