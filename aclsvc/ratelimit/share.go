package ratelimit

import "time"

// A user has one bandwidth in all processes of a daemon that is upgraded. Each
// tells the others what it wants of it: those that take less than they may have
// it, and those that would take more share the rest.

// Use is what processes want of a bandwidth.
type Use struct {
	Bytes  int64 `json:"bytes,omitempty"`  // a second, of those that get all that they want
	Greedy int   `json:"greedy,omitempty"` // how many would take more
}

// Demand is what processes want of a user's bandwidth.
type Demand struct {
	User []byte `json:"user"` // base64: names are bytes
	Up   Use    `json:"up"`
	Down Use    `json:"down"`
}

// Add is what both want together.
func (u Use) Add(other Use) Use { return Use{u.Bytes + other.Bytes, u.Greedy + other.Greedy} }

// IsZero says that nothing is wanted.
func (d Demand) IsZero() bool { return d.Up == Use{} && d.Down == Use{} }

// Demands is what the connections here want, of users who want anything. It is
// for one goroutine, which calls it again and again.
func (t *Users) Demands() []Demand {
	var all []Demand
	now := time.Now()
	for _, u := range t.list() {
		if d := (Demand{User: []byte(u.name), Up: u.Up.use(now), Down: u.Down.use(now)}); !d.IsZero() {
			all = append(all, d)
		}
	}
	return all
}

// Share leaves to other processes what they want of users' bandwidths.
func (t *Users) Share(others []Demand) {
	for _, d := range others {
		t.mu.Lock()
		u := t.named(string(d.User))
		t.mu.Unlock()
		u.Up.leave(d.Up)
		u.Down.leave(d.Down)
	}
}

const (
	// greedyFor is how long somebody who had to wait would take more: others have
	// booked all of the queue before.
	greedyFor = 2 * queue
	// useSteps is how many steps a use is told in, so that it changes rarely.
	useSteps = 32
	// leastShare is the part of a bandwidth that a process has in any case.
	leastShare = 16
)

// use is what is wanted here.
func (b *Bucket) use(now time.Time) Use {
	b.mu.Lock()
	defer b.mu.Unlock()
	passed := now.Sub(b.looked).Seconds()
	moved := b.moved.Swap(0)
	if b.full == 0 || b.looked.IsZero() || passed <= 0 {
		b.looked, b.used = now, 0
		return Use{}
	}
	b.looked = now
	b.used += (float64(moved)/passed - b.used) * min(passed/greedyFor.Seconds(), 1)
	if now.Before(b.waits.Add(greedyFor)) {
		return Use{Greedy: 1}
	}
	step := max(b.full/useSteps, 1)
	return Use{Bytes: (int64(b.used) + step/2) / step * step}
}

// leave leaves to others what they want.
func (b *Bucket) leave(others Use) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.others = others
	b.rate.Store(b.share())
}

// share is the part of the bandwidth for this process. The caller holds the
// lock.
func (b *Bucket) share() int64 {
	if b.full == 0 {
		return 0
	}
	return max((b.full-b.others.Bytes)/int64(1+max(b.others.Greedy, 0)), b.full/leastShare, 1)
}
