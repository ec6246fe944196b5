package resolver

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// caseGrace is how long the right answer is awaited after one that is not: a
// forgery, or all that this server has to say.
const caseGrace = 200 * time.Millisecond

// udpTransport asks over UDP, and over TCP what does not fit or cannot be
// trusted.
type udpTransport struct {
	sockets *serverSockets
	tcp     *streamTransport
	manners manners
}

func newUDP(addr netip.AddrPort, tcp *streamTransport, sockets *udpSockets) *udpTransport {
	return &udpTransport{sockets: sockets.of(addr), tcp: tcp}
}

func (u *udpTransport) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	reply, err := u.manners.converse(ctx, q, hardening{edns: true, mixed: true}, u.sockets.ask)
	overTCP := func(ctx context.Context) (*dns.Msg, error) { return u.tcp.exchange(ctx, q) }
	switch {
	case errors.Is(err, errCase):
		// Nobody but the server knows the query's id and port: it is its own
		// answer, most likely. Without TCP the plain query has to do.
		u.manners.folds()
		if reply, err := within(ctx, 3, overTCP); err == nil {
			return reply, nil
		}
		return u.sockets.ask(ctx, q.query(hardening{}))
	case errors.Is(err, errForged):
		if reply, err := within(ctx, 2, overTCP); err == nil {
			return reply, nil
		}
		return u.sockets.ask(ctx, q.query(u.manners.best(hardening{mixed: true}))) // from another port
	case err == nil && reply.Truncated:
		whole, err := within(ctx, 2, overTCP)
		if err != nil && len(reply.Answer) > 0 {
			return reply, nil // some of its addresses are better than none
		}
		return whole, err
	}
	return reply, err
}

func (u *udpTransport) retire() { u.tcp.retire() }

// endOf is the context's error when that is why an operation failed.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
