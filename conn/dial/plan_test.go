package dial

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cleversocks/conn/wire"
	"cleversocks/metrics"
	"cleversocks/resolver"
)

// memory is Options.Known for names of one table; what is in there is known in all
// families.
func memory(table map[string][]netip.Addr) func(string, []resolver.Family) ([2]resolver.Answer, bool) {
	return func(name string, families []resolver.Family) (answers [2]resolver.Answer, known bool) {
		all, known := table[name]
		for i, family := range families {
			answers[i] = resolver.Answer{Family: family, Err: resolver.ErrNotFound}
			for _, a := range all {
				if resolver.FamilyOf(a) == family {
					answers[i].Addrs, answers[i].Err = append(answers[i].Addrs, a), nil
				}
			}
		}
		return answers, known
	}
}

func named(name string) wire.Addr { return wire.Addr{Name: name, Port: 443, Absolute: true} }

func literal(ip string) wire.Addr { return wire.Addr{IP: netip.MustParseAddr(ip), Port: 443} }

// What is decided without waiting is what Dial would come to: the same addresses
// in the same order, judged once, and the same errors.
func TestPrepare(t *testing.T) {
	denied := errors.New("denied")
	known := map[string][]netip.Addr{
		"both.test": addrs("192.0.2.1", "192.0.2.9", "2001:db8::1"), "four.test": addrs("192.0.2.1"), "none.test": nil,
		"found.search.test": addrs("192.0.2.5"), "bad.test": addrs("192.0.2.9"),
	}
	for name, tt := range map[string]struct {
		dest  wire.Addr
		opts  Options
		first string
		left  int
		err   error
	}{
		"an address":               {dest: literal("192.0.2.1"), first: "192.0.2.1:443"},
		"a mapped address":         {dest: literal("::ffff:192.0.2.1"), first: "192.0.2.1:443"},
		"a denied address":         {dest: literal("192.0.2.9"), err: denied},
		"no host":                  {dest: literal("0.0.0.0"), err: ErrNoUsableAddress},
		"a family turned off":      {dest: literal("192.0.2.1"), opts: Options{Family: FamilyIPv6}, err: ErrNoUsableAddress},
		"no port":                  {dest: wire.Addr{IP: netip.MustParseAddr("192.0.2.1")}, err: ErrNoUsableAddress},
		"a name of two families":   {dest: named("both.test"), first: "[2001:db8::1]:443", left: 2},
		"a name, one family":       {dest: named("both.test"), opts: Options{Family: FamilyIPv4}, first: "192.0.2.1:443", left: 1},
		"a name of one address":    {dest: named("four.test"), first: "192.0.2.1:443", left: 1},
		"a name without addresses": {dest: named("none.test"), err: resolver.ErrNotFound},
		"a name that is denied":    {dest: named("bad.test"), err: denied},
		"a name not known":         {dest: named("new.test"), err: ErrWaits},
		"a searched name":          {dest: wire.Addr{Name: "found", Port: 443}, first: "192.0.2.5:443", left: 1},
		"a searched name, unknown": {dest: wire.Addr{Name: "new", Port: 443}, err: ErrWaits},
		"nothing is remembered":    {dest: named("four.test"), opts: Options{Known: func(string, []resolver.Family) (a [2]resolver.Answer, known bool) { return a, false }}, err: ErrWaits},
	} {
		t.Run(name, func(t *testing.T) {
			m := metrics.New()
			if tt.opts.Known == nil {
				tt.opts.Known = memory(known)
			}
			tt.opts.Lookup = func(context.Context, string, resolver.Family) ([]netip.Addr, error) {
				t.Error("a server was asked")
				return nil, resolver.ErrServers
			}
			tt.opts.Search = func(name string) []string { return []string{name + ".search.test", name} }
			tt.opts.Metrics = m.Dial
			d := New(tt.opts)
			d.source = func(netip.Addr, Egress) netip.Addr { return netip.Addr{} }
			judged := map[netip.Addr]int{}
			var p Plan
			err := d.Prepare(Request{Dest: tt.dest, Judge: func(ip netip.Addr) error {
				if judged[ip]++; ip == netip.MustParseAddr("192.0.2.9") {
					return denied
				}
				return nil
			}}, &p)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("%v, want %v", err, tt.err)
			}
			for ip, n := range judged {
				if n != 1 {
					t.Errorf("%s was judged %d times", ip, n)
				}
			}
			if err != nil {
				return
			}
			if got := p.First().String(); got != tt.first || len(p.addrs) != tt.left {
				t.Errorf("%s of %d, want %s of %d", got, len(p.addrs), tt.first, tt.left)
			}
		})
	}
}

// Nothing is opened by a plan, so a connection that fails before its socket costs
// nothing, and what the socket needs is said.
func TestPlanSocket(t *testing.T) {
	d := New(Options{NoDelay: true, Congestion: "reno", Egress: Egress{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.77/32")}, Mark: 7}})
	var p Plan
	if err := d.Prepare(Request{Dest: literal("192.0.2.1"), Egress: Egress{Interface: "lo"}}, &p); err != nil {
		t.Fatal(err)
	}
	s := p.Socket()
	if s.To.String() != "192.0.2.1:443" || s.Source.String() != "192.0.2.77" || !s.NoDelay {
		t.Errorf("%+v", s)
	}
	want := socketOptions{mark: 7, device: "lo", congestion: "reno", fixedSource: true}
	if diff := cmp.Diff(want, s.options, cmp.AllowUnexported(socketOptions{})); diff != "" {
		t.Error(diff)
	}
}

// The caller's own attempt is the first of the race, and what it learned counts.
func TestPlanGoesOn(t *testing.T) {
	refused := connectScript{err: syscall.ECONNREFUSED}
	for name, tt := range map[string]struct {
		known []netip.Addr
		hosts map[string]connectScript
		err   error // of the caller's own attempt; nil: it was slow
		want  []string
		final bool
		fails bool
	}{
		"refused, the next one answers":      {addrs("192.0.2.1", "192.0.2.2"), nil, syscall.ECONNREFUSED, []string{"0s 192.0.2.2"}, false, false},
		"slow, the next one answers":         {addrs("192.0.2.1", "192.0.2.2"), nil, nil, []string{"0s 192.0.2.2"}, false, false},
		"slow, the next one refuses":         {addrs("192.0.2.1", "192.0.2.2"), map[string]connectScript{"192.0.2.2": refused}, nil, []string{"0s 192.0.2.2", "0s 192.0.2.1"}, false, false},
		"refused, and so by the next":        {addrs("192.0.2.1", "192.0.2.2"), map[string]connectScript{"192.0.2.2": refused}, syscall.ECONNREFUSED, []string{"0s 192.0.2.2"}, false, true},
		"the only one refuses":               {addrs("192.0.2.1"), nil, syscall.ECONNREFUSED, nil, true, true},
		"refused, two are left for the race": {addrs("192.0.2.1", "192.0.2.2", "192.0.2.3"), map[string]connectScript{"192.0.2.2": refused}, syscall.ECONNREFUSED, []string{"0s 192.0.2.2", "0s 192.0.2.3"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(Options{Known: memory(map[string][]netip.Addr{"x.test": tt.known}), ConnectTimeout: time.Minute}, nil, nil, tt.hosts)
				var p Plan
				if err := s.dialer.Prepare(Request{Dest: named("x.test")}, &p); err != nil {
					t.Fatal(err)
				}
				if final := p.Final(tt.err); final != tt.final {
					t.Fatalf("final is %t", final)
				} else if final {
					if err := p.Done(tt.err); !errors.Is(err, tt.err) {
						t.Errorf("%v", err)
					}
					return
				}
				p.Pass(tt.err)
				_, err := p.Connect(t.Context())
				if (err != nil) != tt.fails {
					t.Errorf("%v", err)
				}
				if diff := cmp.Diff(tt.want, s.log()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// Until is the time of the whole dial, unless another address waits for its turn.
func TestPlanUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Known: memory(map[string][]netip.Addr{"two.test": addrs("192.0.2.1", "192.0.2.2")}), ConnectTimeout: time.Minute})
		for dest, want := range map[wire.Addr]time.Duration{literal("192.0.2.1"): time.Minute, named("two.test"): attemptDelay} {
			var p Plan
			if err := d.Prepare(Request{Dest: dest}, &p); err != nil {
				t.Fatal(err)
			}
			if got := time.Until(p.Until()); got != want {
				t.Errorf("%s: %v, want %v", dest, got, want)
			}
		}
	})
}

// A literal that no route leads to may be behind the network's translator, which
// takes a look-up: the caller's failure is not the last word.
func TestPlanOfATranslatedLiteral(t *testing.T) {
	d := New(Options{})
	var p Plan
	for ip, final := range map[string]bool{"198.51.101.7": false, "10.0.0.1": true, "2001:db8::1": true} {
		if err := d.Prepare(Request{Dest: literal(ip)}, &p); err != nil {
			t.Fatal(err)
		}
		if p.Final(syscall.ENETUNREACH) != final || !p.Final(syscall.ECONNREFUSED) || p.Final(nil) {
			t.Errorf("%s: no route is final: %t", ip, !final)
		}
	}
}

// What won is tried first the next time, whoever opened the socket.
func TestPlanIsRemembered(t *testing.T) {
	d := New(Options{Known: memory(map[string][]netip.Addr{"x.test": addrs("192.0.2.1", "192.0.2.2")})})
	req := Request{Dest: named("x.test")}
	d.opts.History.record(req.Dest, netip.MustParseAddr("192.0.2.2"))
	var p Plan
	if err := d.Prepare(req, &p); err != nil || p.First().Addr().String() != "192.0.2.2" {
		t.Fatalf("%v, %v", p.First(), err)
	}
	p.Pass(syscall.ECONNREFUSED)
	if err := p.Done(nil); err != nil {
		t.Fatal(err)
	}
	if got := d.opts.History.last(req.Dest).String(); got != "192.0.2.1" {
		t.Errorf("%s is remembered", got)
	}
}

// A reactor prepares each connection: what needs no memory takes none.
func TestPrepareAllocatesNothing(t *testing.T) {
	known := memory(map[string][]netip.Addr{"four.test": addrs("192.0.2.1")})
	answers, _ := known("four.test", bothFamilies[:])
	d := New(Options{Known: func(string, []resolver.Family) ([2]resolver.Answer, bool) { return answers, true }, NoDelay: true, ConnectTimeout: time.Minute})
	judge := func(netip.Addr) error { return nil }
	var p Plan
	for dest, most := range map[wire.Addr]float64{literal("192.0.2.1"): 0, named("four.test"): 1} {
		n := testing.AllocsPerRun(100, func() {
			if err := d.Prepare(Request{Dest: dest, Judge: judge}, &p); err != nil {
				t.Fatal(err)
			}
			s := p.Socket()
			_ = s.To
		})
		if n > most {
			t.Errorf("%s: %g allocations", dest, n)
		}
	}
}
