package upstream

import (
	"context"
	"net"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
)

// Parent is an HTTP proxy that is asked in absolute-form.
type Parent struct {
	// Authorization is the value of Proxy-Authorization; "": none.
	Authorization string
	upstream      string
	member        *member
}

// Refused is told that the parent refused us with a status, and not the
// destination. It counts as the member's failure, and is the error of it.
func (p *Parent) Refused(status int) error {
	fail := statusError(p.member.last(), status, httpproxy.ReplyCode(status))
	fail.Upstream = p.upstream
	p.member.refused(fail)
	return fail
}

// DialPlain is Dial for plain HTTP requests. Where the last hop is an HTTP
// proxy it asks for no tunnel: such proxies often allow none to port 80. The
// caller sends requests in absolute-form then, as Info.Parent says.
func (r Route) DialPlain(ctx context.Context, dests ...wire.Addr) (net.Conn, Info, error) {
	if r.pool == nil || len(dests) != 1 || r.pool.local {
		return r.Dial(ctx, dests...) // of addresses alone the parent would not know the name
	}
	asked := false
	bound := Info{Dest: dests[0]}
	got, info, fail := r.pool.through(ctx, r.by, func(ctx context.Context, p *prepared, hop Hop) (fail *Error) {
		if asked = hop.proto != protoHTTP; !asked {
			return nil
		}
		bound.Bound, fail = request(ctx, p.conn, hop, dests[0])
		return fail
	})
	if fail != nil {
		return nil, Info{}, fail
	}
	info.Bound, info.Dest = bound.Bound, bound.Dest
	if asked {
		info.member.granted()
	} else {
		info.Parent = &Parent{upstream: r.pool.name, member: info.member}
		if hop := info.member.last(); hop.hasAuth {
			c := httpproxy.Credentials{User: hop.user, Password: hop.password}
			info.Parent.Authorization = string(c.AppendBasic(nil))
		}
	}
	return got.conn, info, nil
}

// Quiet reports whether a connection is open and nothing came in on it, as far
// as that can be told without waiting.
func Quiet(conn net.Conn) bool {
	raw := conn
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
		raw = tls.NetConn()
	}
	tcp, ok := raw.(*net.TCPConn)
	return ok && (&prepared{conn: conn, raw: tcp}).quiet()
}
