//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// How often replicas call the store: what they do in a second while nobody comes, and
// what users and connections add. Each window holds several beats, and connections come
// at a rate that an ordinary replica has: what is called once a beat is not spread over
// as many as the machine can carry.

const (
	callsWindow = 24 * time.Second // 8 beats
	callsRate   = 250              // connections a second, at all replicas together
	// callsFull is how many come at once to a cap of callsFullCap, and stay for a moment.
	callsFull     = 12
	callsFullCap  = 8
	callsFullStay = 40 * time.Millisecond
)

const callsUsers = `[[user]]
name = "full"
password = "secret"
max_connections = 8
[[user]]
name = "small"
password = "secret"
max_connections = 10
`

// callsFigures are the calls to the store of one size of fleet.
type callsFigures struct {
	idle  storeUsage // a second, of one replica
	held  storeUsage // a second, for a user with a connection at a replica
	moved storeUsage // the same, for one who moves bytes of a quota besides
	far   storeUsage // a connection of a user far from the cap
	near  storeUsage // a connection of a user near the cap
	small storeUsage // the same, of a cap of which an eighth is 1
	full  storeUsage // a connection that is asked for at the cap
	tries int64      // at the cap
	came  int64      // of these
}

// measureCalls measures all sizes, and prints a table.
func measureCalls(ctx context.Context, o options, dir string) error {
	binary := o.ours
	if binary == "" {
		binary = filepath.Join(dir, "cleversocks")
	}
	s, err := serve(echo)
	if err != nil {
		return err
	}
	defer s.close()
	fmt.Printf("Calls to the store, bytes both ways and µs of its processor; windows of %v, %d connections/s.\n\n", callsWindow, callsRate)
	fmt.Print("| replicas | idle replica, a second | user at a replica, a second | the same, moving a quota | connection far from the cap | near it | near a small one | at it, come or refused | let in at the cap |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, n := range fleetSizes {
		g, err := callsOf(ctx, binary, n, s.addr())
		if err != nil {
			return fmt.Errorf("%d replicas: %w", n, err)
		}
		fmt.Printf("| %d |", n)
		for _, u := range []storeUsage{g.idle, g.held, g.moved, g.far, g.near, g.small, g.full} {
			fmt.Printf(" %.3f, %.0f, %.1f |", u.calls, u.bytes, u.cpu*1e6)
		}
		fmt.Printf(" %d of %d |\n", g.came, g.tries)
	}
	return nil
}

func callsOf(ctx context.Context, binary string, n int, target *net.TCPAddr) (g callsFigures, err error) {
	f, err := startFleet(ctx, binary, n, true)
	if err != nil {
		return g, err
	}
	defer f.stop()
	if err := pause(ctx, 3*fleetBeat); err != nil { // until each has a floor
		return g, err
	}
	idle, err := f.storeRate(ctx, callsWindow)
	if err != nil {
		return g, err
	}
	g.idle = idle.over(float64(n))
	steps := []func() error{
		func() (err error) { g.held, err = f.callsOfHeld(ctx, idle, target, false); return err },
		func() (err error) { g.moved, err = f.callsOfHeld(ctx, idle, target, true); return err },
		func() (err error) { g.far, err = f.callsOfConnections(ctx, idle, farUser, 0, target); return err },
		func() (err error) { g.near, err = f.callsOfConnections(ctx, idle, nearUser, 310, target); return err },
		func() (err error) { g.small, err = f.callsOfConnections(ctx, idle, "small", 7, target); return err },
		func() error { return f.callsAtCap(ctx, &g, idle, target) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return g, err
		}
		if err := pause(ctx, 2*fleetBeat); err != nil {
			return g, err
		}
	}
	return g, nil
}

// besides is what the store did in a stretch of time but for what it does when nobody
// comes, over n.
func (f *fleet) besides(idle storeUsage, n float64, run func() error) (storeUsage, error) {
	before, err := f.info()
	if err != nil {
		return before, err
	}
	begin := time.Now()
	if err := run(); err != nil {
		return before, err
	}
	after, err := f.info()
	s := time.Since(begin).Seconds()
	return storeUsage{
		after.calls - before.calls - idle.calls*s, after.bytes - before.bytes - idle.bytes*s, after.cpu - before.cpu - idle.cpu*s,
	}.over(n), err
}

// callsOfHeld is for users who have a connection at each replica, and move bytes or not.
func (f *fleet) callsOfHeld(ctx context.Context, idle storeUsage, target *net.TCPAddr, moving bool) (storeUsage, error) {
	name, n := "u", heldUsers*len(f.addresses)
	if moving {
		name = "q"
	}
	held, err := f.hold(ctx, target, n, func(i int) string { return fmt.Sprint(name, i/len(f.addresses)) })
	defer closeConns(held)
	if err != nil {
		return storeUsage{}, err
	}
	if err := pause(ctx, fleetBeat); err != nil {
		return storeUsage{}, err
	}
	return f.besides(idle, float64(n)*callsWindow.Seconds(), func() error {
		for end := time.Now().Add(callsWindow); time.Now().Before(end); {
			for _, c := range held {
				if !moving {
					break
				}
				_ = c.SetDeadline(end.Add(dialTimeout))
				if _, err := c.Write([]byte("x")); err != nil {
					return err
				}
			}
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
}

// callsOfConnections is for connections that come and go, while the user has some.
func (f *fleet) callsOfConnections(ctx context.Context, idle storeUsage, user string, has int, target *net.TCPAddr) (storeUsage, error) {
	held, err := f.hold(ctx, target, has, func(int) string { return user })
	defer closeConns(held)
	if err != nil {
		return storeUsage{}, err
	}
	if err := pause(ctx, 2*fleetBeat); err != nil {
		return storeUsage{}, err
	}
	n := int(callsWindow.Seconds() * callsRate)
	return f.besides(idle, float64(n), func() error {
		for i := range n {
			c, _, err := setUp(ctx, f.addresses[i%len(f.addresses)], user, target)
			if err != nil {
				return err
			}
			_ = c.Close()
			if err := pause(ctx, time.Second/callsRate); err != nil {
				return err
			}
		}
		return nil
	})
}

// callsAtCap is for a user of whom more want to come than may.
func (f *fleet) callsAtCap(ctx context.Context, g *callsFigures, idle storeUsage, target *net.TCPAddr) error {
	var tries, came atomic.Int64
	all, err := f.besides(idle, 1, func() error {
		var w workers
		end := time.Now().Add(callsWindow)
		for i := range callsFull {
			w.run(func() error {
				for n := i; time.Now().Before(end); n++ {
					tries.Add(1)
					c, _, err := setUp(ctx, f.addresses[n%len(f.addresses)], "full", target)
					if err == nil {
						came.Add(1)
					}
					if err := pause(ctx, callsFullStay); err != nil {
						return err
					}
					if c != nil {
						_ = c.Close()
					}
				}
				return nil
			})
		}
		return w.wait()
	})
	g.tries, g.came = tries.Load(), came.Load()
	g.full = all.over(float64(max(g.tries, 1)))
	if g.came == 0 || g.came == g.tries {
		fmt.Fprintf(os.Stderr, "at a cap of %d, %d of %d were let in\n", callsFullCap, g.came, g.tries)
	}
	return err
}
