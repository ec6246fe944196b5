package httpproxy

import (
	"fmt"
	"strings"

	"cleversocks/conn/wire"
)

// ProxyStatus is the value of the field of that name, which tells a program
// why a request failed (RFC 9209).
type ProxyStatus struct {
	Error          string // a proxy error type of §2.3
	Details        string // for a person
	NextHop        string // who did it, if not this proxy
	ReceivedStatus int    // that the next hop answered
}

// String is the field's value.
func (p ProxyStatus) String() string {
	var b strings.Builder
	b.WriteString("cleversocks; error=" + p.Error)
	if p.NextHop != "" {
		b.WriteString("; next-hop=" + quoted(p.NextHop))
	}
	if p.ReceivedStatus != 0 {
		fmt.Fprintf(&b, "; received-status=%d", p.ReceivedStatus)
	}
	if p.Details != "" {
		b.WriteString("; details=" + quoted(p.Details))
	}
	return b.String()
}

// Line is the field as a line of a header.
func (p ProxyStatus) Line() string { return "Proxy-Status: " + p.String() + "\r\n" }

// quoted is a string of RFC 8941 §3.3.3, which holds printable ASCII alone.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			b.WriteByte('?')
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// ProxyError is the proxy error type of a reply code.
func ProxyError(code wire.ReplyCode) string {
	switch code {
	case wire.ReplyNotAllowed:
		return "http_request_denied"
	case wire.ReplyNetworkUnreachable, wire.ReplyAddressTypeNotSupported:
		return "destination_ip_unroutable"
	case wire.ReplyHostUnreachable:
		return "destination_unavailable"
	case wire.ReplyConnectionRefused:
		return "connection_refused"
	case wire.ReplyTTLExpired:
		return "connection_timeout"
	default:
		return "proxy_internal_error"
	}
}
