package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks4"
)

// within runs a handshake's step on conn, bounded by ctx: when it ends, reads
// and writes fail at once. Afterwards conn has no deadline.
func within[T any](ctx context.Context, conn net.Conn, step func() (T, *Error)) (T, *Error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	out, err := step()
	if !stop() {
		// The deadline is set or about to be: the connection is spent even
		// if the step just made it.
		if err == nil {
			err = &Error{HopFault: true, Stage: "request"}
		}
		err.Err = context.Cause(ctx)
		err.Code = wire.ReplyGeneralFailure
		if isTimeout(err.Err) {
			err.Code = wire.ReplyTTLExpired
		}
		return out, err
	}
	if err != nil && errors.Is(err.Err, os.ErrDeadlineExceeded) {
		err.Code = wire.ReplyTTLExpired
	}
	return out, err
}

// prepare takes a fresh connection to a hop as far as it can without a
// destination: TLS, the method and the authentication. What it returns is
// conn itself unless the hop is over TLS. It does not close conn.
func prepare(ctx context.Context, conn net.Conn, hop Hop, base *tls.Config) (net.Conn, *Error) {
	if hop.overTLS {
		cfg := base.Clone()
		cfg.ServerName = hop.addr.Host()
		cfg.NextProtos = nil
		tlsConn := tls.Client(conn, cfg)
		if err := tlsConn.HandshakeContext(ctx); err != nil {
			return nil, hopError(hop, "tls", err)
		}
		conn = tlsConn
	}
	if hop.proto != protoSOCKS5 {
		return conn, nil
	}
	return within(ctx, conn, func() (net.Conn, *Error) { return conn, socks5Negotiate(conn, hop) })
}

// request asks a prepared hop for a destination and returns the address that
// it bound, if it told. It reads not a byte of the tunnel.
func request(ctx context.Context, conn net.Conn, hop Hop, dest wire.Addr) (netip.AddrPort, *Error) {
	bound, fail := within(ctx, conn, func() (netip.AddrPort, *Error) {
		switch hop.proto {
		case protoSOCKS5:
			bound, err := socks5Ask(conn, hop, wire.CommandConnect, dest)
			return bound.AddrPort(), err
		case protoHTTP:
			return netip.AddrPort{}, httpConnect(conn, hop, dest)
		default:
			return socks4Connect(conn, hop, dest)
		}
	})
	if fail != nil && fail.Code == wire.ReplyTTLExpired {
		// It is the destination that the hop waited for.
		fail.HopFault = false
	}
	return bound, fail
}

// socks5Ask sends a request and reads its reply.
func socks5Ask(conn net.Conn, hop Hop, cmd wire.Command, dest wire.Addr) (wire.Addr, *Error) {
	msg, err := appendSOCKS5Request(nil, cmd, dest)
	if err == nil {
		_, err = conn.Write(msg)
	}
	if err != nil {
		return wire.Addr{}, hopError(hop, "request", err)
	}
	code, bound, err := readSOCKS5Reply(conn)
	switch {
	case err != nil:
		return wire.Addr{}, hopError(hop, "request", err)
	case code > wire.ReplyAddressTypeNotSupported:
		return wire.Addr{}, replyError(hop, wire.ReplyGeneralFailure)
	case code != wire.ReplySucceeded:
		return wire.Addr{}, replyError(hop, code)
	}
	return bound, nil
}

func socks4Connect(conn net.Conn, hop Hop, dest wire.Addr) (netip.AddrPort, *Error) {
	if hop.proto == protoSOCKS4 && !dest.IP.Is4() {
		return netip.AddrPort{}, &Error{
			Hop: hop.String(), Stage: "request", Code: wire.ReplyAddressTypeNotSupported,
			Err: fmt.Errorf("%w: SOCKS4 without the a reaches IPv4 addresses only", ErrNoAddress),
		}
	}
	b, err := socks4.AppendRequest(nil, wire.CommandConnect, dest, hop.user)
	if err == nil {
		_, err = conn.Write(b)
	}
	if err != nil {
		return netip.AddrPort{}, hopError(hop, "request", err)
	}
	code, bound, err := socks4.ReadReply(conn)
	switch {
	case err != nil:
		return bound, hopError(hop, "request", err)
	case code != wire.ReplySucceeded:
		return bound, replyError(hop, code)
	}
	return bound, nil
}

func httpConnect(conn net.Conn, hop Hop, dest wire.Addr) *Error {
	var credentials *httpproxy.Credentials
	if hop.hasAuth {
		credentials = &httpproxy.Credentials{User: hop.user, Password: hop.password}
	}
	if _, err := conn.Write(httpproxy.AppendConnect(nil, dest, credentials)); err != nil {
		return hopError(hop, "request", err)
	}
	status, err := httpproxy.ReadConnectReply(conn)
	if err != nil {
		return hopError(hop, "request", err)
	}
	code := httpproxy.ReplyCode(status)
	if code == wire.ReplySucceeded {
		return nil
	}
	return statusError(hop, status, code)
}

// statusError is a hop's refusal by an HTTP status. Some are about us whatever
// the destination: money, a rate, a method that it does not know.
func statusError(hop Hop, status int, code wire.ReplyCode) *Error {
	err := fmt.Errorf("%w: HTTP status %d", ErrRefused, status)
	var e *Error
	switch status {
	case http.StatusProxyAuthRequired:
		return hopError(hop, "authentication", ErrCredentials)
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusMethodNotAllowed, http.StatusTooManyRequests,
		http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		e = hopError(hop, "request", err)
	default:
		e = replyError(hop, code)
		e.Err = err
	}
	e.Status = status
	return e
}
