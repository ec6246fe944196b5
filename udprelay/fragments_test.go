package udprelay

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"cleversocks/metrics"
)

func newReassembler(budget int64) *reassembler {
	r := &reassembler{budget: new(atomic.Int64), full: new(metrics.Counter)}
	r.budget.Store(budget)
	return r
}

func TestReassembly(t *testing.T) {
	type part struct {
		frag   byte
		header string
		data   string
	}
	tests := []struct {
		name  string
		parts []part
		want  []string // the datagrams that come out
	}{
		{"in order", []part{{1, "h", "a"}, {2, "h", "b"}, {0x83, "h", "c"}}, []string{"abc"}},
		{"one alone", []part{{0x81, "h", "a"}}, []string{"a"}},
		{"two sequences", []part{{1, "h", "a"}, {0x82, "h", "b"}, {1, "h", "c"}, {0x82, "h", "d"}}, []string{"ab", "cd"}},
		{"a repeated one", []part{{1, "h", "a"}, {2, "h", "b"}, {2, "h", "b"}, {0x83, "h", "c"}}, []string{"abc"}},
		{"a gap", []part{{1, "h", "a"}, {0x83, "h", "c"}}, nil},
		{"a gap, then the missing one", []part{{1, "h", "a"}, {3, "h", "c"}, {2, "h", "b"}, {0x84, "h", "d"}}, nil},
		{"backwards", []part{{1, "h", "a"}, {2, "h", "b"}, {3, "h", "c"}, {2, "h", "b"}, {0x84, "h", "d"}}, nil},
		{"no beginning", []part{{2, "h", "b"}, {0x83, "h", "c"}}, nil},
		{"a new beginning", []part{{1, "h", "a"}, {2, "h", "b"}, {1, "h", "x"}, {0x82, "h", "y"}}, []string{"xy"}},
		{"another destination", []part{{1, "h", "a"}, {0x82, "i", "b"}}, nil},
		{"the end of nothing", []part{{0x80, "h", "a"}}, nil},
		{"empty ones", []part{{1, "h", ""}, {0x82, "h", ""}}, []string{""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReassembler(1000)
			var got []string
			for _, p := range tt.parts {
				if whole, done := r.add(p.frag, []byte(p.header), []byte(p.data)); done {
					got = append(got, string(whole))
				}
			}
			if len(got) != len(tt.want) {
				t.Fatalf("%q, want %q", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("%q, want %q", got[i], tt.want[i])
				}
			}
			r.close()
			if left := r.budget.Load(); left != 1000 {
				t.Errorf("the budget is %d after close", left)
			}
		})
	}
}

func TestReassemblyTimer(t *testing.T) {
	tests := []struct {
		name string
		wait time.Duration
		want bool
	}{
		{"just in time", fragmentTimeout - time.Millisecond, true},
		{"too late", fragmentTimeout, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReassembler(1000)
				defer r.close()
				r.add(1, []byte("h"), []byte("a"))
				timer := time.NewTimer(tt.wait)
				<-timer.C
				synctest.Wait()
				if free := r.budget.Load() == 1000; free == tt.want {
					t.Errorf("memory given back: %v", free)
				}
				if _, done := r.add(0x82, []byte("h"), []byte("b")); done != tt.want {
					t.Errorf("complete: %v", done)
				}
			})
		})
	}
}

func TestReassemblyIsBounded(t *testing.T) {
	r := newReassembler(1 << 20)
	half := make([]byte, 40000)
	r.add(1, []byte("h"), half)
	if _, done := r.add(0x82, []byte("h"), half); done {
		t.Error("longer than a datagram can be")
	}
	small := newReassembler(100)
	small.add(1, []byte("h"), make([]byte, 60))
	if _, done := small.add(0x82, []byte("h"), make([]byte, 60)); done {
		t.Error("past the budget of all associations")
	}
	if left := small.budget.Load(); left != 100 {
		t.Errorf("the budget is %d after the sequence was abandoned", left)
	}
}

// Whatever arrives, what comes out is a sequence that was sent in order from
// 1 to its end, and the budget is kept.
func TestReassemblyProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const budget = 100
		r := newReassembler(budget)
		defer r.close()
		type part struct {
			Frag byte
			Data []byte
		}
		var run []byte // the payloads since the last 1, while in order
		next := byte(0)
		for range rapid.IntRange(1, 40).Draw(t, "parts") {
			p := part{
				Frag: rapid.ByteRange(0, 5).Draw(t, "position") | rapid.SampledFrom([]byte{0, lastFragment}).Draw(t, "last"),
				Data: rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "data"),
			}
			position := p.Frag &^ lastFragment
			switch {
			case position == 0, next == 0 && position != 1, position != 1 && position == next-1:
			case position == 1:
				run, next = bytes.Clone(p.Data), 2
			case position == next:
				run = append(run, p.Data...)
				next++
			default:
				run, next = nil, 0
			}
			whole, done := r.add(p.Frag, []byte("h"), p.Data)
			if left := r.budget.Load(); left < 0 || left > budget {
				t.Fatalf("budget %d", left)
			}
			if !done {
				continue
			}
			if next == 0 || position != next-1 || !bytes.Equal(whole, run) {
				t.Fatalf("%x came out, in order were %x", whole, run)
			}
			run, next = nil, 0
		}
	})
}

func FuzzReassembly(f *testing.F) {
	f.Add([]byte("\x01ab\x82cd"))
	f.Add([]byte("\x01ab\x03cd\x84ef"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := newReassembler(1 << 10)
		for len(stream) >= 3 {
			if whole, done := r.add(stream[0], stream[1:2], stream[1:3]); done && len(whole)%2 != 0 {
				t.Fatalf("%x is not made of whole fragments", whole)
			}
			stream = stream[3:]
		}
		r.close()
		if left := r.budget.Load(); left != 1<<10 {
			t.Fatalf("the budget is %d", left)
		}
	})
}

// Over real sockets: fragments arrive as one datagram, or not at all.
func TestFragmentsThroughTheRelay(t *testing.T) {
	h := associate(t, New(RelayOptions{}), nil)
	at := echo(t, loopback4)
	fragmentOf := func(frag byte, text string) []byte {
		b := wrap(t, to(at), []byte(text))
		b[2] = frag
		return b
	}
	h.send(t, fragmentOf(1, "one "))
	h.roundTrip(t, to(at), at, "a whole one between")
	h.send(t, fragmentOf(2, "two "))
	h.send(t, fragmentOf(0x83, "three"))
	if from, got := h.receive(t); from.AddrPort() != at || string(got) != "one two three" {
		t.Errorf("%q from %v", got, from)
	}
	h.send(t, fragmentOf(1, "lost"))
	h.send(t, fragmentOf(0x83, "lost"))
	h.roundTrip(t, to(at), at, "after a lost one")
	h.end(t)
}
