package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Cached is an answer in the cache, for people to look at.
type Cached struct {
	Name      string
	Type      string // "A" or "AAAA"
	Addresses []netip.Addr
	Error     string // of a negative or failed answer
	From      string // the server that gave it; empty when none did
	Expires   time.Time
	Stale     bool // past its time, and kept for when no server answers
}

// Cached are the answers for a name, or all of them for "", by name. It copies
// the cache, shard by shard.
func (r *Resolver) Cached(name string) []Cached {
	now := time.Now()
	var out []Cached
	c := r.state.Load().cache
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for key, el := range s.entries {
			if e := el.Value.(*entry); name == "" || key.name == name {
				out = append(out, e.cached(now))
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Cached) int { return strings.Compare(a.Name+" "+a.Type, b.Name+" "+b.Type) })
	return out
}

func (e *entry) cached(now time.Time) Cached {
	c := Cached{
		Name: e.key.name, Type: dns.TypeToString[e.key.qtype], Addresses: slices.Clone(e.addrs), From: e.from,
		Expires: e.expires, Stale: !now.Before(e.expires),
	}
	if e.err != nil {
		c.Error = e.err.Error()
	}
	return c
}

// Flush drops the answers for a name, or all of them for "", and returns how
// many those were.
func (r *Resolver) Flush(name string) int {
	n := 0
	c := r.state.Load().cache
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for key, el := range s.entries {
			if name == "" || key.name == name {
				s.drop(el)
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

// ServerState is what is known of a name server.
type ServerState struct {
	Server string // as configured
	// Dead says that it left a probe unanswered: others are asked first.
	Dead bool
}

// Servers are the servers in force, in the order in which they are asked.
func (r *Resolver) Servers() []ServerState {
	var list []ServerState
	for _, s := range r.state.Load().servers {
		list = append(list, ServerState{Server: s.id, Dead: !s.isUp()})
	}
	return list
}
