package relay

import (
	"sync"
	"time"
)

// clock has tunnels look at themselves when their time has come. All that wait
// equally long stand in one row, in the order of their times: to wait and to leave
// costs the same among ten thousand, and one timer serves all. A timer for each
// tunnel would take more memory than its place here, and its counts, together.
type clock struct {
	look func(*Tunnel) // nil: checkIdle; tests have their own

	mu    sync.Mutex
	timer *time.Timer   // made with the first to wait
	rings time.Duration // when it rings, since epoch; 0: nobody waits
	rows  []row         // few: one for each length of a wait
}

type row struct {
	wait        time.Duration
	first, last *Tunnel
}

// waiting is a tunnel's place in a row.
type waiting struct {
	clock      *clock // nil: it has never waited
	prev, next *Tunnel
	due        time.Duration // since epoch; 0: it does not wait
}

// epoch is what times count from that need eight bytes only.
var epoch = time.Now()

// meet has the tunnel's check come after a while. It does not wait yet.
func (c *clock) meet(t *Tunnel, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.row(wait)
	w := &t.waits
	w.clock, w.due, w.prev = c, time.Since(epoch)+wait, r.last
	if r.last == nil {
		r.first = t
	} else {
		r.last.waits.next = t
	}
	r.last = t
	if c.rings == 0 || w.due < c.rings {
		c.ringIn(wait, w.due)
	}
}

// row is the one for a wait.
func (c *clock) row(wait time.Duration) *row {
	for i := range c.rows {
		if c.rows[i].wait == wait {
			return &c.rows[i]
		}
	}
	c.rows = append(c.rows, row{wait: wait})
	return &c.rows[len(c.rows)-1]
}

// ringIn sets the timer. The caller holds c.mu.
func (c *clock) ringIn(wait, due time.Duration) {
	if c.rings = due; c.timer == nil {
		c.timer = time.AfterFunc(wait, c.ring)
		return
	}
	c.timer.Reset(wait)
}

// miss takes a tunnel out that waits for so long, and reports whether it did: then
// no check comes.
func (c *clock) miss(t *Tunnel, wait time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.waits.due == 0 {
		return false
	}
	c.take(t, c.row(wait))
	return true
}

// take takes a tunnel out of its row, which goes when it is empty: nobody may wait
// so long again. The caller holds c.mu.
func (c *clock) take(t *Tunnel, r *row) {
	w := &t.waits
	if w.prev == nil {
		r.first = w.next
	} else {
		w.prev.waits.next = w.next
	}
	if w.next == nil {
		r.last = w.prev
	} else {
		w.next.waits.prev = w.prev
	}
	w.prev, w.next, w.due = nil, nil, 0
	if r.first == nil {
		last := len(c.rows) - 1
		*r = c.rows[last]
		c.rows[last] = row{}
		c.rows = c.rows[:last]
	}
}

// ring has those look that are due.
func (c *clock) ring() {
	look := c.look
	if look == nil {
		look = (*Tunnel).checkIdle
	}
	for t := c.due(); t != nil; t = c.due() {
		look(t)
	}
}

// due takes out a tunnel whose time has come. When there is none it is nil, and the
// timer is set for the next one.
func (c *clock) due() *Tunnel {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first *row
	for i := range c.rows {
		if first == nil || c.rows[i].first.waits.due < first.first.waits.due {
			first = &c.rows[i]
		}
	}
	if first == nil {
		c.rings = 0
		return nil
	}
	t := first.first
	if due := t.waits.due; due > time.Since(epoch) {
		c.ringIn(max(due-time.Since(epoch), 1), due)
		return nil
	}
	c.take(t, first)
	return t
}
