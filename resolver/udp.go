package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"cleversocks/metrics"
)

const (
	// caseGrace is how long the right answer is awaited after one that
	// spelled the name otherwise: a forgery, or a server that does not keep
	// the letters' case and is then asked over TCP.
	caseGrace = 200 * time.Millisecond
	// maxForged is how many wrong datagrams one query bears before it goes
	// on over TCP, where they cannot be injected.
	maxForged = 32
)

// errForged says that a query's socket received too many wrong answers.
var errForged = errors.New("too many wrong answers")

// udpTransport asks over UDP, from a new socket with a random port for each
// query, and over TCP what does not fit or cannot be trusted.
type udpTransport struct {
	addr    netip.AddrPort
	tcp     *streamTransport
	dropped metrics.CounterVec
}

func (u *udpTransport) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	reply, err := u.ask(ctx, q.query(true))
	if err == nil && refusesEDNS(reply) {
		reply, err = u.ask(ctx, q.query(false))
	}
	if errors.Is(err, errCase) || errors.Is(err, errForged) || (err == nil && reply.Truncated) {
		return u.tcp.exchange(ctx, q)
	}
	return reply, err
}

// refusesEDNS reports that a server did not understand the OPT record
// (RFC 6891 §7).
func refusesEDNS(reply *dns.Msg) bool {
	return reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented
}

// ask sends one datagram and waits for the answer to it.
func (u *udpTransport) ask(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	raw, err := query.Pack()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", u.addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err = c.Write(raw); err != nil {
		return nil, endOf(ctx, err)
	}
	return u.await(ctx, c, query)
}

// await reads datagrams until one answers the query. Others are dropped.
func (u *udpTransport) await(ctx context.Context, c net.Conn, query *dns.Msg) (*dns.Msg, error) {
	buf := make([]byte, 4096)
	misspelt := false
	for range maxForged {
		n, err := c.Read(buf)
		if err != nil {
			if misspelt && ctx.Err() == nil {
				return nil, errCase
			}
			return nil, endOf(ctx, err)
		}
		reply, err := parseReply(buf[:n], query, true)
		if err == nil {
			return reply, nil
		}
		u.dropped.Of(dropReason(err)).Inc()
		if errors.Is(err, errCase) && !misspelt {
			misspelt = true
			_ = c.SetReadDeadline(time.Now().Add(caseGrace))
			if ctx.Err() != nil { // the deadline set at the context's end must stay
				return nil, context.Cause(ctx)
			}
		}
	}
	return nil, errForged
}

func (u *udpTransport) retire() { u.tcp.retire() }

// endOf is the context's error when that is why an operation failed.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
