package conn

import (
	"context"
	"time"

	"cleversocks/conn/handshake"
	"cleversocks/conn/wire/httpproxy"
)

// connectAfter serves the CONNECT that a client sent behind plain requests.
// What is recorded from here on is the tunnel.
func (d *driver) connectAfter(head *httpproxy.Head) bool {
	d.started, d.policy = time.Now(), d.h.policy.Load()
	socket := d.socket // the session lets go of it when its tunnel begins
	defer context.AfterFunc(d.ctx, func() { socket.Close() })()
	read, _ := d.in.Peek(d.in.Buffered())
	action := d.machine.Resume(handshake.Options{Heads: d.h.heads}, head, read)
	_, _ = d.in.Discard(len(read))
	d.resumed = true
	return d.run(action)
}

// httpRefusal is what the session's client of HTTP is told of an outcome: which
// upstream refused and why, and by Proxy-Status what a program can read. Only
// who has logged in hears of a rule's name.
func (s *session) httpRefusal(o outcome) httpproxy.Refusal {
	r := httpproxy.Refusal{Status: o.status, Reason: o.sentence}
	status := httpproxy.ProxyStatus{Error: o.proxyError}
	if o.via != nil {
		status.NextHop, status.ReceivedStatus = o.via.Upstream, o.via.Status
	}
	if s.identity.User != "" {
		status.Details = o.rule
	}
	if o.proxyError != "" {
		r.Fields = status.Line()
	}
	return r
}
