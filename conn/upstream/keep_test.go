package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// TestCompileKeepsPools: a reload takes over the pools that did not change,
// and of the others what is known of members that stay.
func TestCompileKeepsPools(t *testing.T) {
	m := metrics.New()
	compile := func(previous *Router, rewarm string, upstreams ...Upstream) *Router {
		t.Helper()
		r, err := Compile(Options{
			Upstreams: upstreams, Previous: previous, Rewarm: rewarm, Metrics: &m.Upstream, Logger: slog.New(slog.DiscardHandler),
			Dial: func(context.Context, wire.Addr) (*net.TCPConn, error) { return nil, errors.New("unused") },
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	farm := Upstream{Name: "farm", Members: []string{"socks5://192.0.2.1", "socks5://u:p@192.0.2.2"}, Warm: Warm{Size: 1}}
	exit := Upstream{Name: "exit", Via: []string{"socks5://192.0.2.3", "http://192.0.2.4"}}
	first := compile(nil, "", farm, exit)
	first.pools[0].members[0].failed(errors.New("x"))

	same := compile(first, "", exit, farm)
	if same.pools[0] != first.pools[1] || same.pools[1] != first.pools[0] {
		t.Error("unchanged pools were replaced")
	}
	for name, change := range map[string]func(*Upstream){
		"warm":     func(u *Upstream) { u.Warm.Size = 2 },
		"strategy": func(u *Upstream) { u.Strategy = Random },
		"health":   func(u *Upstream) { u.Health.Failures = 9 },
		"password": func(u *Upstream) { u.Members = []string{"socks5://192.0.2.1", "socks5://u:q@192.0.2.2"} },
		"resolve":  func(u *Upstream) { u.ResolveLocally = true },
	} {
		changed := farm
		change(&changed)
		next := compile(first, "", changed, exit)
		if next.pools[0] == first.pools[0] || next.pools[1] != first.pools[1] {
			t.Errorf("%s: the changed pool stays, or the other one does not", name)
		}
		if next.pools[0].members[0].state != first.pools[0].members[0].state {
			t.Errorf("%s: what was known of a member is lost", name)
		}
	}
	var forgotten []string
	note := func(upstream, member string) { forgotten = append(forgotten, upstream+" "+member) }
	fewer := farm
	fewer.Members = farm.Members[:1]
	first.Retired(compile(first, "", fewer, exit), note)
	compile(nil, "", fewer).Retired(nil, note) // a first configuration that is not to be
	if d := cmp.Diff([]string{"farm socks5://192.0.2.2:1080", "farm socks5://192.0.2.1:1080"}, forgotten); d != "" {
		t.Error(d)
	}
	if next := compile(first, "egress", farm, exit); next.pools[0] == first.pools[0] {
		t.Error("connections that were made another way were kept")
	}
}

// A client that leaves gives up its dial with a cause of its own: that was
// once taken for a failure of the member, so that impatient clients could
// take a working pool out.
func TestClientLeavingIsNoFailure(t *testing.T) {
	silent := serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 100)); _, _ = c.Read(make([]byte, 1)) })
	m := metrics.New()
	left := errors.New("the client left")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := Compile(Options{
		Upstreams: []Upstream{{Name: "farm", Members: []string{"socks5://" + silent}, Health: Health{Failures: 1}}},
		Forward:   []Rule{{Upstream: "farm"}},
		Metrics:   &m.Upstream, Logger: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, hop wire.Addr) (*net.TCPConn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", hop.String())
			if err != nil {
				return nil, err
			}
			time.AfterFunc(10*time.Millisecond, func() { cancel(left) })
			return c.(*net.TCPConn), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	dest := wire.Addr{Name: "example.com", Port: 80}
	_, _, err = r.Route(Query{Dest: dest}).Dial(ctx, dest)
	if !errors.Is(err, left) {
		t.Errorf("got %v", err)
	}
	if !r.pools[0].members[0].isUp() {
		t.Error("the member was taken out")
	}
}

func TestRouteDatagrams(t *testing.T) {
	up := Upstream{Name: "up", Via: []string{"socks5://192.0.2.1"}}
	m := metrics.New()
	r, err := Compile(Options{
		Upstreams: []Upstream{up}, Metrics: &m.Upstream, Logger: slog.New(slog.DiscardHandler),
		Dial: func(context.Context, wire.Addr) (*net.TCPConn, error) { return nil, errors.New("unused") },
		Forward: []Rule{
			{To: []string{"example.com"}, Upstream: "reject"},
			{Ports: []netaddr.PortRange{{First: 53, Last: 53}}, Upstream: "reject"},
			{Users: []string{"alice"}, Upstream: "up"},
			{Users: []string{"bob"}, To: []string{"*"}, Upstream: "reject"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]Action{"alice": Via, "bob": Reject, "carol": Direct, "": Direct} {
		if got := r.RouteDatagrams(Query{User: user}); got.Action != want || got.CanAssociate() != (want == Via) {
			t.Errorf("%q: %+v, want action %d", user, got, want)
		}
	}
	if got := (*Router)(nil).RouteDatagrams(Query{User: "alice"}); got.Action != Direct {
		t.Errorf("no rules: %+v", got)
	}
}
