//go:build linux

package relay

import (
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/conn/cause"
)

// meterFunc grants all, after what it says.
type meterFunc func(d Direction, n int) (time.Duration, error)

func (f meterFunc) Reserve(d Direction, n int) (int, time.Duration, error) {
	wait, err := f(d, n)
	return n, wait, err
}

func (f meterFunc) Settle(Direction, int, int) {}

// broken is a meter that panics when bytes have moved.
type broken struct{}

func (broken) Reserve(_ Direction, n int) (int, time.Duration, error) { return n, 0, nil }

func (broken) Settle(_ Direction, _, moved int) {
	if moved > 0 {
		panic("boom")
	}
}

// holdsUp is a meter that closes the channel when the first bytes come, and
// lets none move.
func holdsUp(paused chan struct{}) Meter {
	var closed atomic.Bool
	return &upTo{hold: func() {
		if closed.CompareAndSwap(false, true) {
			close(paused)
		}
	}}
}

// upTo grants some bytes a direction, and then has those that come wait for an
// hour.
type upTo struct {
	left [2]atomic.Int64
	hold func()
}

func (m *upTo) Reserve(d Direction, n int) (int, time.Duration, error) {
	if granted := min(int64(n), m.left[d].Load()); granted > 0 {
		m.left[d].Add(-granted)
		return int(granted), 0, nil
	}
	go m.hold() // a source with nothing to say is not held up: look again
	return 0, time.Hour, nil
}

func (m *upTo) Settle(d Direction, granted, moved int) {
	m.left[d].Add(int64(granted - moved))
}

// TestPausedTunnelSeesItsClientLeave: 203 clients that had gone held 197 of 200
// places for up to 11 minutes, because a paused direction looked at nothing.
func TestPausedTunnelSeesItsClientLeave(t *testing.T) {
	for _, k := range kinds {
		if k.reactors < 0 || k.name == "tcp without readiness" || k.name == "unix auto" || k.name == "unix auto, bare" {
			continue
		}
		for _, way := range []string{"reset of an upload", "reset of a download", "end of a silent one"} {
			t.Run(k.name+" "+way, func(t *testing.T) {
				paused := make(chan struct{})
				tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: 1}), Meter: holdsUp(paused)})
				want := cause.ClientReset
				switch way {
				case "reset of an upload":
					send(t, tun.client, []byte("x"))
					<-paused
					reset(t, tun.client)
				case "reset of a download":
					send(t, tun.server, []byte("x"))
					<-paused
					reset(t, tun.client)
				case "end of a silent one": // needs nothing of the meter
					shut(tun.client)
					wantEOF(t, tun.server)
					shut(tun.server)
					want = cause.ClientClosed
				}
				tun.wantEnd(t, want)
			})
		}
	}
}

// TestPauseIsNoLife: a direction that the meter holds up neither ends as idle
// nor keeps the other side's silence from counting afterwards.
func TestPauseIsNoLife(t *testing.T) {
	var asked atomic.Int64
	tun := open(t, tcpPair, Options{
		Idle: 300 * time.Millisecond, Pools: servedPools(PoolOptions{Reactors: 1}),
		Meter: meterFunc(func(Direction, int) (time.Duration, error) {
			if asked.Add(1) == 1 {
				return 1500 * time.Millisecond, nil
			}
			return 0, nil
		}),
	})
	send(t, tun.client, []byte("x"))
	wantRead(t, tun.server, "x") // after five idle times, and not ended
	tun.wantEnd(t, cause.Idle)
}

// TestGrantsAreKept: of many relays, none takes a byte more than was granted,
// spliced or copied.
func TestGrantsAreKept(t *testing.T) {
	for _, k := range kinds {
		if k.name == "tcp without readiness" {
			continue // it reads first, and delivers what is granted
		}
		t.Run(k.name, func(t *testing.T) {
			const most = 1<<20 + 123
			m := &upTo{hold: func() {}}
			m.left[Out].Store(most)
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors}), Meter: m})
			go func() { _, _ = tun.server.Write(make([]byte, 3<<20)) }()
			got := make([]byte, most)
			for n := 0; n < most; {
				read, err := tun.client.Read(got[n:])
				if err != nil {
					t.Fatal(err)
				}
				n += read
			}
			eventually(t, "the count", func() bool { return tun.counters.Out.Load() == most })
		})
	}
}
