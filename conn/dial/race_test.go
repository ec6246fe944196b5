package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cleversocks/conn/wire"
	"cleversocks/resolver"
)

// lookupScript is when and what one family's look-up answers.
type lookupScript struct {
	after time.Duration
	addrs []netip.Addr
	err   error
}

// connectScript is when and how one address answers; err nil connects. A zero
// after with a nil err connects at once; never ends with the context.
type connectScript struct {
	after time.Duration
	err   error
	never bool
}

// stage is a Dialer whose look-ups and connections follow a script, and which
// writes down the attempts with their times since the start.
type stage struct {
	dialer    *Dialer
	start     time.Time
	attempted chan string
}

func newStage(opts Options, six, four *lookupScript, hosts map[string]connectScript) *stage {
	s := &stage{start: time.Now(), attempted: make(chan string, 64)}
	opts.Lookup = func(ctx context.Context, _ string, family resolver.Family) ([]netip.Addr, error) {
		script := four
		if family == resolver.IPv6 {
			script = six
		}
		select {
		case <-time.After(script.after):
			return script.addrs, script.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.dialer = New(opts)
	s.dialer.source = func(dst netip.Addr, _ Egress) netip.Addr {
		if dst.Is6() {
			return netip.MustParseAddr("2001:db8:ffff::1")
		}
		return netip.MustParseAddr("198.51.100.1")
	}
	s.dialer.connect = func(ctx context.Context, to netip.AddrPort, _ Egress) (*net.TCPConn, error) {
		s.attempted <- fmt.Sprintf("%v %s", time.Since(s.start), to.Addr())
		script := hosts[to.Addr().String()]
		var wait <-chan time.Time
		if !script.never {
			wait = time.After(script.after)
		}
		select {
		case <-wait:
			if script.err != nil {
				return nil, script.err
			}
			return new(net.TCPConn), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s
}

// log is the attempts so far.
func (s *stage) log() []string {
	var lines []string
	for {
		select {
		case line := <-s.attempted:
			lines = append(lines, line)
		default:
			return lines
		}
	}
}

const ms = time.Millisecond

func TestRace(t *testing.T) {
	denied := errors.New("denied")
	six, six2 := addrs("2001:db8::1"), addrs("2001:db8::1", "2001:db8::2")
	four, four2 := addrs("192.0.2.1"), addrs("192.0.2.1", "192.0.2.2")
	never := connectScript{never: true}
	// Not at once: the other family's answer, of the same instant, comes first.
	refused := connectScript{after: 5 * ms, err: syscall.ECONNREFUSED}
	noRoute := connectScript{after: 5 * ms, err: syscall.ENETUNREACH}
	for _, tt := range []struct {
		name      string
		opts      Options
		six, four lookupScript
		hosts     map[string]connectScript
		judge     func(netip.Addr) error
		want      []string      // attempts
		took      time.Duration // the whole dial
		err       error
	}{
		{
			name: "both at once: IPv6 first", six: lookupScript{addrs: six}, four: lookupScript{addrs: four},
			want: []string{"0s 2001:db8::1"},
		},
		{
			name: "AAAA first starts at once", six: lookupScript{after: 10 * ms, addrs: six}, four: lookupScript{after: time.Second, addrs: four},
			want: []string{"10ms 2001:db8::1"}, took: 10 * ms,
		},
		{
			name: "A first waits 50 ms for AAAA", six: lookupScript{after: time.Second, addrs: six}, four: lookupScript{after: 10 * ms, addrs: four},
			want: []string{"60ms 192.0.2.1"}, took: 60 * ms,
		},
		{
			name: "AAAA inside the resolution delay", six: lookupScript{after: 40 * ms, addrs: six}, four: lookupScript{after: 10 * ms, addrs: four},
			want: []string{"40ms 2001:db8::1"}, took: 40 * ms,
		},
		{
			name: "negative AAAA ends the delay", six: lookupScript{after: 20 * ms, err: resolver.ErrNotFound}, four: lookupScript{after: 10 * ms, addrs: four},
			want: []string{"20ms 192.0.2.1"}, took: 20 * ms,
		},
		{
			name: "negative AAAA first waits for A", six: lookupScript{err: resolver.ErrNotFound}, four: lookupScript{after: 300 * ms, addrs: four},
			want: []string{"300ms 192.0.2.1"}, took: 300 * ms,
		},
		{
			name: "black-holed IPv6 costs 250 ms", six: lookupScript{addrs: six}, four: lookupScript{addrs: four},
			hosts: map[string]connectScript{"2001:db8::1": never, "192.0.2.1": {after: 20 * ms}},
			want:  []string{"0s 2001:db8::1", "250ms 192.0.2.1"}, took: 270 * ms,
		},
		{
			name: "sooner on failure", six: lookupScript{addrs: six}, four: lookupScript{addrs: four},
			hosts: map[string]connectScript{"2001:db8::1": {after: 5 * ms, err: syscall.ENETUNREACH}, "192.0.2.1": {after: 20 * ms}},
			want:  []string{"0s 2001:db8::1", "5ms 192.0.2.1"}, took: 25 * ms,
		},
		{
			name: "a late winner among many", six: lookupScript{addrs: six2}, four: lookupScript{addrs: four2},
			hosts: map[string]connectScript{
				"2001:db8::1": {after: 900 * ms}, "192.0.2.1": never, "2001:db8::2": never, "192.0.2.2": never,
			},
			want: []string{"0s 2001:db8::1", "250ms 192.0.2.1", "500ms 2001:db8::2", "750ms 192.0.2.2"}, took: 900 * ms,
		},
		{
			name: "late A joins the race", six: lookupScript{addrs: six2}, four: lookupScript{after: 100 * ms, addrs: four},
			hosts: map[string]connectScript{"2001:db8::1": never, "2001:db8::2": never},
			want:  []string{"0s 2001:db8::1", "250ms 192.0.2.1"}, took: 250 * ms,
		},
		{
			name: "late A starts at once when nothing is under way", six: lookupScript{addrs: six}, four: lookupScript{after: 100 * ms, addrs: four},
			hosts: map[string]connectScript{"2001:db8::1": noRoute},
			want:  []string{"0s 2001:db8::1", "100ms 192.0.2.1"}, took: 100 * ms,
		},
		{
			name: "all tried, the most telling told", six: lookupScript{addrs: six2}, four: lookupScript{addrs: four2},
			hosts: map[string]connectScript{"2001:db8::1": noRoute, "192.0.2.1": refused, "2001:db8::2": noRoute, "192.0.2.2": noRoute},
			want:  []string{"0s 2001:db8::1", "5ms 192.0.2.1", "10ms 2001:db8::2", "15ms 192.0.2.2"}, took: 20 * ms, err: syscall.ECONNREFUSED,
		},
		{
			name: "refused says more than time running out", opts: Options{ConnectTimeout: 2 * time.Second},
			six: lookupScript{addrs: six}, four: lookupScript{addrs: four},
			hosts: map[string]connectScript{"2001:db8::1": refused, "192.0.2.1": never},
			want:  []string{"0s 2001:db8::1", "5ms 192.0.2.1"}, took: 2 * time.Second, err: syscall.ECONNREFUSED,
		},
		{
			name: "the deadline is the whole dial's", opts: Options{ConnectTimeout: 2 * time.Second},
			six: lookupScript{err: resolver.ErrNotFound}, four: lookupScript{after: 1500 * ms, addrs: four2},
			hosts: map[string]connectScript{"192.0.2.1": never, "192.0.2.2": never},
			want:  []string{"1.5s 192.0.2.1", "1.75s 192.0.2.2"}, took: 2 * time.Second, err: context.DeadlineExceeded,
		},
		{
			name: "resolution runs out of time", opts: Options{ConnectTimeout: 2 * time.Second},
			six: lookupScript{after: time.Hour}, four: lookupScript{after: time.Hour}, took: 2 * time.Second, err: context.DeadlineExceeded,
		},
		{
			name: "nothing found", six: lookupScript{after: ms, err: resolver.ErrNotFound}, four: lookupScript{err: resolver.ErrNotFound},
			took: ms, err: resolver.ErrNotFound,
		},
		{
			name: "failing servers say more than nothing found", six: lookupScript{err: resolver.ErrServers}, four: lookupScript{err: resolver.ErrNotFound},
			err: resolver.ErrServers,
		},
		{
			name: "denied addresses drop out", six: lookupScript{addrs: six}, four: lookupScript{addrs: four2},
			judge: func(a netip.Addr) error {
				if a != netip.MustParseAddr("192.0.2.2") {
					return denied
				}
				return nil
			},
			want: []string{"0s 192.0.2.2"},
		},
		{
			name: "all denied", six: lookupScript{addrs: six}, four: lookupScript{addrs: four2},
			judge: func(netip.Addr) error { return denied }, err: denied,
		},
		{
			name: "descriptors ran out", six: lookupScript{addrs: six2}, four: lookupScript{addrs: four},
			hosts: map[string]connectScript{"2001:db8::1": {err: syscall.EMFILE}}, want: []string{"0s 2001:db8::1"}, err: ErrDescriptors,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(tt.opts, &tt.six, &tt.four, tt.hosts)
				c, err := s.dialer.Dial(t.Context(), Request{Dest: wire.Addr{Name: "x.test", Port: 443}, Judge: tt.judge})
				if !errors.Is(err, tt.err) || (err == nil) != (c != nil) {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				if diff := cmp.Diff(tt.want, s.log()); diff != "" {
					t.Errorf("attempts: %s", diff)
				}
				if took := time.Since(s.start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
			})
		})
	}
}

// TestRaceHistory tries first what won before, and forgets it when it fails
// or after a while.
func TestRaceHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := map[string]connectScript{"2001:db8::1": {never: true}}
		four := &lookupScript{addrs: addrs("192.0.2.1")}
		s := newStage(Options{}, &lookupScript{addrs: addrs("2001:db8::1")}, four, hosts)
		dial := func() []string {
			t.Helper()
			s.start = time.Now()
			_, err := s.dialer.Dial(t.Context(), Request{Dest: wire.Addr{Name: "x.test", Port: 443}})
			if err != nil {
				t.Fatal(err)
			}
			return s.log()
		}
		firstSix, thenFour := "0s 2001:db8::1", "250ms 192.0.2.1"
		steps := []struct {
			name string
			do   func()
			want []string
		}{
			{"nothing known", func() {}, []string{firstSix, thenFour}},
			{"the winner first", func() {}, []string{"0s 192.0.2.1"}},
			{"the winner's answer awaited", func() { four.after = 30 * ms }, []string{"30ms 192.0.2.1"}},
			{"but not for long", func() { four.after = 100 * ms }, []string{"50ms 2001:db8::1", "300ms 192.0.2.1"}},
			{"the order again after a while", func() { four.after = 0; <-time.After(historyLife + time.Second) }, []string{firstSix, thenFour}},
			{
				"forgotten on failure",
				func() {
					hosts["192.0.2.1"] = connectScript{err: syscall.ECONNREFUSED}
					hosts["2001:db8::1"] = connectScript{}
				},
				[]string{"0s 192.0.2.1", firstSix},
			},
			{"the other one won", func() {}, []string{firstSix}},
		}
		for _, step := range steps {
			step.do()
			if diff := cmp.Diff(step.want, dial()); diff != "" {
				t.Errorf("%s: %s", step.name, diff)
			}
		}
	})
}

// TestHistoryBound keeps to its size.
func TestHistoryBound(t *testing.T) {
	h := NewHistory(3)
	for port := range uint16(100) {
		h.record(wire.Addr{Name: "x.test", Port: port}, netip.MustParseAddr("192.0.2.1"))
	}
	if h.won.Len() != 3 {
		t.Errorf("%d destinations remembered, want 3", h.won.Len())
	}
	if got := h.last(wire.Addr{Name: "x.test", Port: 99}); !got.IsValid() {
		t.Error("the last one is not remembered")
	}
}

// TestRaceCancel ends at once when the client leaves, with nothing under way.
func TestRaceCancel(t *testing.T) {
	gone := errors.New("client left")
	synctest.Test(t, func(t *testing.T) {
		hosts := map[string]connectScript{"2001:db8::1": {never: true}, "192.0.2.1": {never: true}}
		s := newStage(Options{ConnectTimeout: time.Minute}, &lookupScript{addrs: addrs("2001:db8::1")}, &lookupScript{addrs: addrs("192.0.2.1")}, hosts)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(400*ms, func() { cancel(gone) })
		_, err := s.dialer.Dial(ctx, Request{Dest: wire.Addr{Name: "x.test", Port: 443}})
		if !errors.Is(err, context.Canceled) || !errors.Is(err, gone) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(s.start); took != 400*ms {
			t.Errorf("took %v, want 400ms", took)
		}
	})
}

// TestRaceClosesLosers connects twice; the one that comes second is closed.
func TestRaceClosesLosers(t *testing.T) {
	to := listen(t, "127.0.0.1:0")
	d := New(Options{Lookup: lookupTable(map[string][]netip.Addr{"x.test": addrs("2001:db8::1", "192.0.2.1")})})
	d.source = func(netip.Addr, Egress) netip.Addr { return netip.Addr{} }
	loser := make(chan *net.TCPConn, 1)
	d.connect = func(ctx context.Context, dest netip.AddrPort, _ Egress) (*net.TCPConn, error) {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
		if dest.Addr().Is6() && err == nil {
			<-ctx.Done() // the other one has won
			loser <- c
		}
		return c, err
	}
	c, err := d.Dial(t.Context(), Request{Dest: wire.Addr{Name: "x.test", Port: 443}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("the winner: %v", err)
	}
	closeIt(t, c)
	if _, err := (<-loser).Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the loser was left open: %v", err)
	}
}
