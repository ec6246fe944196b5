package shared

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// onceNews is what was told lately of addresses that have logged in. Behind one address
// may be many users, who log in by turns: each turn is news, of which the last matters.
type onceNews struct {
	mu      sync.Mutex
	told    map[netip.Addr]time.Duration // when
	waiting map[netip.Addr]onceTold      // since then
}

type onceTold struct {
	entry func() []byte
	until time.Time
}

// Bounds of the news: the first of an address are told at once, others a while after the
// last; and of more addresses than these all are told at once.
const (
	onceQuiet   = time.Second
	maxOnceNews = 4096
)

// Added lets an address in on all replicas.
func (s *Store) Added(addr netip.Addr, entry func() []byte, ttl time.Duration) {
	s.missing.remove(addr)
	s.news.mu.Lock()
	defer s.news.mu.Unlock() // calls about an address are in the order of their news
	if news := (onceTold{entry, time.Now().Add(ttl)}); s.news.isFirst(addr, news, s.now()) {
		s.tellOnce(addr, news)
	}
}

// isFirst notes news, and reports whether they are to be told now. The lock is held.
func (n *onceNews) isFirst(addr netip.Addr, news onceTold, now time.Duration) bool {
	at, was := n.told[addr]
	switch {
	case was && now < at+onceQuiet:
		n.waiting[addr] = news
		return false
	case !was && len(n.told) >= maxOnceNews:
		return true
	case n.told == nil:
		n.told, n.waiting = make(map[netip.Addr]time.Duration), make(map[netip.Addr]onceTold)
	}
	n.told[addr] = now
	delete(n.waiting, addr)
	return true
}

// Revoked lets it in no more. What is told of it next is first.
func (s *Store) Revoked(addr netip.Addr, ttl time.Duration) {
	s.missing.add(addr, s.now()+revokedLife)
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	delete(s.news.told, addr)
	delete(s.news.waiting, addr)
	s.do(job{addr, "once", true, func(ctx context.Context, c rueidis.Client) error {
		err := c.Do(ctx, c.B().Set().Key(s.keys.once(addr)).Value(revokedMark).Px(max(ttl, time.Second)).Build()).Error()
		if err == nil { // not before: who asks the store between the two would learn it again
			s.publish(event{Kind: eventRevoke, Source: addr})
		}
		return err
	}})
}

// tellOnceAgain tells the last of what has waited long enough.
func (s *Store) tellOnceAgain() {
	now, n := s.now(), &s.news
	n.mu.Lock()
	defer n.mu.Unlock()
	for addr, at := range n.told {
		news, waits := n.waiting[addr]
		switch {
		case now < at+onceQuiet:
		case waits:
			n.told[addr] = now
			delete(n.waiting, addr)
			s.tellOnce(addr, news)
		default:
			delete(n.told, addr)
		}
	}
}

func (s *Store) tellOnce(addr netip.Addr, news onceTold) {
	s.do(job{addr, "once", true, func(ctx context.Context, c rueidis.Client) error {
		text, ttl := news.entry(), time.Until(news.until)
		if len(text) == 0 || ttl < time.Millisecond {
			return nil
		}
		// The key before the event: who reads the event need not ask.
		err := c.Do(ctx, c.B().Set().Key(s.keys.once(addr)).Value(string(text)).Px(ttl).Build()).Error()
		s.publish(event{Kind: eventOnce, Source: addr, What: text})
		return err
	}})
}
