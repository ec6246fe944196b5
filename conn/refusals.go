package conn

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
)

// Connections that are refused at accept have records too, as a sample: a flood
// of them must not become one of the log. The first of each source and
// reason is a record by itself; those that follow are counted, and the count is
// a record once a minute.

const (
	// refusalSources bounds the sources and reasons that are told apart; the
	// rest is one count for each reason.
	refusalSources = 1024
	// refusalInterval is how often the counts become records.
	refusalInterval = time.Minute
)

// refusalKey is a source, an IPv4 address, an IPv6 /64 or a local user, and why it
// was refused. The zero Prefix stands for all that found no room.
type refusalKey struct {
	source netip.Prefix
	reason string
}

// refusal is a connection that was refused, or how many were.
type refusal struct {
	key      refusalKey
	client   netip.AddrPort // of the first
	peer     string         // names a client without an address
	listener string         // of the latest
	count    uint64         // since the last record; 0: this is the first
}

// refusals are those of the last minute. The zero value is ready.
type refusals struct {
	mu   sync.Mutex
	seen map[refusalKey]*refusal
}

// note counts a refusal; first says that it is to be a record by itself.
func (r *refusals) note(source netip.Addr, listener, reason string) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := refusalKey{reason: reason}
	if source.IsValid() {
		key.source = netaddr.SourcePrefix(netaddr.SourceKey(source))
	}
	if known := r.seen[key]; known != nil {
		known.count++
		known.listener = listener
		return false
	}
	if r.seen == nil {
		r.seen = make(map[refusalKey]*refusal)
	}
	if len(r.seen) >= refusalSources {
		key.source = netip.Prefix{}
		if r.seen[key] == nil {
			r.seen[key] = &refusal{key: key}
		}
		r.seen[key].count++
		return false
	}
	r.seen[key] = &refusal{key: key, listener: listener}
	return true
}

// take returns the counts since the last call, and forgets sources of which
// nothing was heard since then.
func (r *refusals) take() []*refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	var counted []*refusal
	for key, s := range r.seen {
		if s.count == 0 {
			delete(r.seen, key)
			continue
		}
		c := *s
		counted = append(counted, &c)
		s.count = 0
	}
	return counted
}

// refused notes a session that was refused. It never blocks.
func (a *AccessLog) refused(s *session, reason string) {
	if a == nil || !a.keeps(cause.Refused) || !a.refusals.note(s.source(), s.listener, reason) {
		return
	}
	a.enqueue(&Record{Cause: cause.Refused, refusal: &refusal{key: refusalKey{reason: reason}, client: s.client, peer: s.atDoor().peer, listener: s.listener}})
}

// message is what the line says.
func (r *refusal) message() string {
	if r.count > 0 {
		return "connections refused"
	}
	return "connection refused"
}

// attrs are the record's fields: of one connection, or of a source's.
func (r *refusal) attrs() []slog.Attr {
	var attrs []slog.Attr
	if r.listener != "" {
		attrs = append(attrs, slog.String("listener", r.listener))
	}
	switch {
	case r.count == 0:
		attrs = append(attrs, slog.String("client", caller(r.client, r.peer)))
		if r.client.IsValid() {
			attrs = append(attrs, slog.String("client_ip", r.client.Addr().String()), slog.Int("client_port", int(r.client.Port())))
		}
	case r.key.source.IsValid():
		attrs = append(attrs, slog.String("source", netaddr.SourceText(r.key.source)))
	default:
		attrs = append(attrs, slog.String("source", "others"))
	}
	attrs = append(attrs, slog.String("cause", cause.Refused), slog.String("reason", r.key.reason))
	if r.count > 0 {
		attrs = append(attrs, slog.Uint64("count", r.count))
	}
	return attrs
}
