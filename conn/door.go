package conn

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"cleversocks/authsvc"
	"cleversocks/conn/reset"
	"cleversocks/listener/proxyproto"
	"cleversocks/listener/tlsconf"
	"cleversocks/metrics"
)

// Step is one thing that a listener's door does to a connection before its
// first byte tells the protocol: read a PROXY header, shake TLS's hands, ask the
// kernel who the client is. Steps run in the connection's task, within the time
// and the cancellation of its handshake, so a step may read and write. Its error
// ends the connection without a reply.
type Step func(ctx context.Context, e *Entrance) error

// Entrance is a connection on its way through a door, and what the steps have
// learned. A step changes it.
type Entrance struct {
	// Conn is what the next step, the driver and the relay read from and write
	// to. A step that wraps it keeps the promise of the wrapper's NetConn: see
	// socketOf. Nobody but the session closes it.
	Conn net.Conn
	// Client is whom limits, rules and records mean, unmapped.
	Client netip.AddrPort
	// Local is where the client connected to, as the peer said that passes its
	// connection on; not valid: at the socket's own address.
	Local netip.AddrPort
	// Peer is who a client without an address is: "unix:uid=1000". LocalUser is
	// the same for bans, queues and limits: a netaddr.LocalUser.
	Peer      string
	LocalUser netip.Addr
	// ClientKnown says that Client is the real one, where the listener's Forwards
	// said that the peer may pass on somebody else's connection.
	ClientKnown bool
	// Proof is the client's certificate, which may be revoked; nil: there is none.
	Proof *tlsconf.Proof
	// Credentials prove who the client is, if the door knows: they are verified
	// before the client is asked. May be nil.
	Credentials authsvc.Credentials
	// Notes are for the record: "key=value".
	Notes []string
}

// source is whom queues count the client as: see session.source.
func (e *Entrance) source() netip.Addr {
	if e.Client.IsValid() {
		return e.Client.Addr()
	}
	return e.LocalUser
}

// doorError is a connection that did not get through its listener's door.
type doorError struct{ err error }

func (e *doorError) Error() string { return "door: " + e.err.Error() }
func (e *doorError) Unwrap() error { return e.err }

// atDoor reports an error of a door's.
func atDoor(err error) bool {
	_, ok := errors.AsType[*doorError](err)
	return ok
}

// refusedBehind is a client whose address became known in the door, and who is
// refused as one is at accept.
type refusedBehind struct{ reason string }

func (e *refusedBehind) Error() string { return "refused: " + e.reason }

// doorkeeper is the first step: it lets connections in at their listener, as far
// as the socket and the door's steps tell who they are.
type doorkeeper struct {
	log        *slog.Logger
	metrics    *metrics.Listener
	current    *atomic.Pointer[Policy]
	guards     *Guards
	handshakes *handshakes
	login      *login
	access     *AccessLog
}

// atAccept asks whether a connection is let in as far as its socket tells; the
// rest waits for the door when the peer may pass on somebody else's.
func (d *doorkeeper) atAccept(s *session) (refused string) {
	if policy := d.current.Load(); policy != nil {
		l, peer := policy.listener(s.listener), s.client.Addr()
		if l.Refuses != nil && l.Refuses(peer) {
			return metrics.RefusedSource
		}
		if s.forwarded = l.Forwards != nil && l.Forwards(peer); s.forwarded {
			return ""
		}
		if l.Allows != nil && !l.Allows(peer) {
			return metrics.RefusedSource
		}
	}
	return d.guards.enter(s)
}

// pass takes a session through its listener's door. Afterwards the session's
// client is the real one, counted, and may have an identity.
func (d *doorkeeper) pass(s *session) error {
	door := s.policy.listener(s.listener).Door
	if len(door) == 0 || s.inner {
		return nil
	}
	e := Entrance{Conn: s.conn, Client: s.client}
	for _, step := range door {
		if err := step(s.ctx, &e); err != nil {
			return &doorError{err}
		}
		if s.conn = e.Conn; e.Peer != "" {
			s.note().peer = e.Peer
		}
		if err := d.meet(s, &e); err != nil {
			return err
		}
	}
	if len(e.Notes) > 0 {
		s.note().notes = e.Notes
	}
	if e.Proof != nil {
		s.note().proof = e.Proof
	}
	if e.Credentials == nil {
		return nil
	}
	_, err := d.login.verify(s.ctx, s, &authsvc.Attempt{Credentials: e.Credentials})
	if err == nil {
		known := s.identity
		s.note().vouched = &known
	}
	return err
}

// meet asks whether a client may come that could not be known at accept, once a
// step has told who it is.
func (d *doorkeeper) meet(s *session, e *Entrance) error {
	switch {
	case e.ClientKnown && s.forwarded:
		s.client, s.note().reachedAt, s.forwarded = e.Client, e.Local, false
		if l := s.policy.listener(s.listener); l.Allows != nil && !l.Allows(s.client.Addr()) {
			return &refusedBehind{metrics.RefusedSource}
		}
	case s.atDoor().localUser != e.LocalUser:
		s.note().localUser = e.LocalUser
	default:
		return nil
	}
	if reason := d.guards.enter(s); reason != "" {
		return &refusedBehind{reason}
	}
	d.handshakes.moved(s)
	return nil
}

// BehindProxies reads the PROXY header of trusted peers.
func BehindProxies(policy *proxyproto.Policy, m *metrics.Registry) Step {
	return func(_ context.Context, e *Entrance) error {
		e.ClientKnown = true
		if !policy.Reads(e.Client.Addr()) {
			return nil
		}
		header, present, err := policy.Read(e.Conn)
		switch {
		case errors.Is(err, proxyproto.ErrHeader):
			m.Listener.ProxyHeaders.Of("malformed").Inc()
			return err
		case err != nil:
			return err // it fell silent, or left: see outcomes
		case !present:
			m.Listener.ProxyHeaders.Of("absent").Inc()
			return nil
		}
		m.Listener.ProxyHeaders.Of("ok").Inc()
		if header.Client.IsValid() {
			e.Client, e.Local = header.Client, header.Local
		}
		for _, tlv := range header.TLVs {
			e.Notes = append(e.Notes, tlv.Name+"="+tlv.Value)
		}
		return nil
	}
}

// refuseBehind ends a connection as the listener does with one that it refuses:
// reset and counted, with a record as such a one has.
func (d *doorkeeper) refuseBehind(s *session, refused *refusedBehind) bool {
	d.metrics.Refused.Of(refused.reason).Inc()
	d.access.refused(s, refused.reason)
	if log := s.logger(d.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "refused in the door", "reason", refused.reason)
	}
	reset.Close(s.socket)
	return false
}

// noted are a door's notes as a record has them.
func noted(notes []string) string { return strings.Join(notes, " ") }
