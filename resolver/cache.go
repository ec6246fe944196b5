package resolver

import (
	"container/list"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

const cacheShards = 16

// cache holds answers, good, negative and failed ones, up to a number; the
// least recently used one makes room. An entry stays past its end for as long
// as it may be served stale.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu      sync.Mutex
	most    int
	entries map[question]*list.Element
	recent  *list.List // of *entry; the front was used last
}

// entry is a cached answer. Its fields but hits and refreshing do not change.
type entry struct {
	key     question
	addrs   []netip.Addr
	err     error  // for a negative or failed answer
	exists  bool   // the name has records of another type, perhaps
	from    string // the server that gave it
	stored  time.Time
	expires time.Time
	// until is when the entry is dropped: expires plus serve-stale.
	until time.Time
	// retry is when the servers are asked again, after they failed while
	// this entry was stale (RFC 8767 §5, failure recheck timer).
	retry      time.Time
	hits       int
	refreshing bool // a prefetch was sent
}

func newCache(size int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].most = max((size+cacheShards-1)/cacheShards, 1)
		c.shards[i].entries = make(map[question]*list.Element)
		c.shards[i].recent = list.New()
	}
	return c
}

func (c *cache) shard(key question) *cacheShard {
	return &c.shards[maphash.Comparable(c.seed, key)%cacheShards]
}

// get is a copy of the entry for a question, as long as it may be served at
// all, and counts its use. prefetch is true once in the entry's life: when it
// was used before and its last tenth has begun.
func (c *cache) get(key question, now time.Time) (e entry, prefetch, ok bool) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	el, ok := s.entries[key]
	if !ok {
		return entry{}, false, false
	}
	found := el.Value.(*entry)
	if !now.Before(found.until) {
		s.drop(el)
		return entry{}, false, false
	}
	s.recent.MoveToFront(el)
	found.hits++
	life := found.expires.Sub(found.stored)
	if found.err == nil && found.hits >= prefetchHits && !found.refreshing &&
		now.Before(found.expires) && found.expires.Sub(now) <= life/10 {
		found.refreshing, prefetch = true, true
	}
	return *found, prefetch, true
}

// put stores an answer and reports whether another one had to make room.
func (c *cache) put(e entry) (evicted bool) {
	s := c.shard(e.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if el, ok := s.entries[e.key]; ok {
		e.hits = el.Value.(*entry).hits / 2 // a name that cools down stops being hot
		el.Value = &e
		s.recent.MoveToFront(el)
		return false
	}
	if len(s.entries) >= s.most {
		s.drop(s.recent.Back())
		evicted = true
	}
	s.entries[e.key] = s.recent.PushFront(&e)
	return evicted
}

// postpone notes when the servers are asked again for a stale entry.
func (c *cache) postpone(key question, retry time.Time) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if el, ok := s.entries[key]; ok {
		el.Value.(*entry).retry = retry
	}
}

// refreshEnded ends a prefetch that brought nothing new, so that another may follow.
func (c *cache) refreshEnded(key question) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if el, ok := s.entries[key]; ok {
		el.Value.(*entry).refreshing = false
	}
}

// sweep drops what may not be served any more.
func (c *cache) sweep(now time.Time) {
	for i := range c.shards {
		c.shards[i].sweep(now)
	}
}

func (s *cacheShard) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for el := s.recent.Front(); el != nil; {
		next := el.Next()
		if !now.Before(el.Value.(*entry).until) {
			s.drop(el)
		}
		el = next
	}
}

// drop takes an entry out; the lock is held.
func (s *cacheShard) drop(el *list.Element) {
	s.recent.Remove(el)
	delete(s.entries, el.Value.(*entry).key)
}
