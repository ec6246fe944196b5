package resolver

import (
	"net/netip"
	"time"

	"cleversocks/metrics"
)

// Answer is what is known of a name in one family: addresses, or why there are
// none. The addresses are the cache's own: they are only read.
type Answer struct {
	Family Family
	Addrs  []netip.Addr
	Err    error
}

// Known is Lookup for a name in one or two families, without waiting: from
// literals, the hosts file, localhost and the cache, and counted as there. It is
// false, and nothing is counted, unless all families are answered.
func (r *Resolver) Known(name string, families []Family) (answers [2]Answer, known bool) {
	st := r.state.Load()
	if addrs, local := st.local(name); local {
		for i, family := range families {
			answers[i].Family = family
			answers[i].Addrs, answers[i].Err = st.ofHosts(name, addrs, family)
		}
		return answers, true
	}
	now := time.Now()
	var uses [2]string
	for i, family := range families {
		e, use, _ := r.remembered(st, question{name: name, qtype: family.qtype()}, now)
		if use == "" {
			return answers, false
		}
		answers[i] = Answer{Family: family, Addrs: e.addrs, Err: e.err}
		uses[i] = use
	}
	for _, use := range uses[:len(families)] {
		st.opts.Metrics.Cache.Of(use).Inc()
	}
	return answers, true
}

// remembered is the cached answer to a question. use is how it is counted; "": it
// has to be asked, and the answer is stale, for want of a better one, or none.
func (r *Resolver) remembered(st *state, q question, now time.Time) (e entry, use string, stale bool) {
	e, prefetch, ok := st.cache.get(q, now)
	stale = ok && e.err == nil
	switch {
	case ok && now.Before(e.expires):
		if prefetch && st.opts.Cache.Prefetch {
			r.enqueue(st, q)
		}
		return e, e.kind(), stale
	case stale && now.Before(e.retry):
		return e, metrics.CacheStale, stale
	}
	return e, "", stale
}
