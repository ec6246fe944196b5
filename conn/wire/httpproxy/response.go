package httpproxy

import (
	"fmt"
	"net/http"
	"strings"

	"cleversocks/conn/wire"
)

// AppendEstablished appends the head of the answer to a CONNECT that worked.
// Write it in one call: some clients (PySocks) read it with one recv.
func AppendEstablished(b []byte) []byte {
	return append(b, "HTTP/1.1 200 Connection established\r\n\r\n"...)
}

// Refusal is an answer of the proxy's own: a status and one line that says
// why, which repeats nothing that the client sent.
type Refusal struct {
	Status int
	Reason string
	// Fields, each with its line's end, go with it: a challenge, Proxy-Status.
	Fields string
	// Keep says that another request may follow, if the client is one of
	// HTTP/1.1.
	Keep bool
}

// Append appends the answer to a request with a method: that to a HEAD has no
// body.
func (r Refusal) Append(b []byte, method string) []byte {
	connection, body := "close", r.Reason+"\n"
	if r.Keep {
		connection = "keep-alive"
	}
	if method == http.MethodHead {
		body = ""
	}
	return fmt.Appendf(b, "HTTP/1.1 %d %s\r\n%sContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"+
		"Cache-Control: no-store\r\nConnection: %s\r\n\r\n%s",
		r.Status, http.StatusText(r.Status), r.Fields, len(r.Reason)+1, connection, body)
}

// AuthRequired is a 407 that asks for Basic credentials. Keep the connection:
// clients that ask first log in on the same one (git, Java,
// curl --proxy-anyauth).
func AuthRequired(realm string, keep bool) Refusal {
	return Refusal{
		Status: http.StatusProxyAuthRequired, Reason: "This proxy needs a user and a password.",
		Fields: "Proxy-Authenticate: " + Challenge(realm) + "\r\n", Keep: keep,
	}
}

// AppendError appends a whole response with a status and one line that says
// why.
func AppendError(b []byte, status int, reason string, keep bool) []byte {
	return Refusal{Status: status, Reason: reason, Keep: keep}.Append(b, "")
}

// AppendAuthRequired appends the answer of [AuthRequired].
func AppendAuthRequired(b []byte, realm string, keep bool) []byte {
	return AuthRequired(realm, keep).Append(b, "")
}

// Challenge is the value of Proxy-Authenticate for a realm (RFC 7617
// §2.1: names and passwords are UTF-8).
func Challenge(realm string) string {
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return -1
		}
		return c
	}, realm)
	return `Basic realm="` + clean + `", charset="UTF-8"`
}

// Status is the HTTP status that tells a client of a reply code.
func Status(code wire.ReplyCode) int {
	switch code {
	case wire.ReplySucceeded:
		return http.StatusOK
	case wire.ReplyNotAllowed:
		return http.StatusForbidden
	case wire.ReplyTTLExpired:
		return http.StatusGatewayTimeout
	case wire.ReplyCommandNotSupported:
		return http.StatusNotImplemented
	default:
		return http.StatusBadGateway
	}
}

// Reason is the one line of the body that goes with a reply code.
func Reason(code wire.ReplyCode) string {
	switch code {
	case wire.ReplyNotAllowed:
		return "The proxy's rules do not allow this destination."
	case wire.ReplyNetworkUnreachable:
		return "The destination's network is unreachable."
	case wire.ReplyHostUnreachable:
		return "The destination is unreachable, or its name does not resolve."
	case wire.ReplyConnectionRefused:
		return "The destination refused the connection."
	case wire.ReplyTTLExpired:
		return "The destination did not answer in time."
	case wire.ReplyCommandNotSupported:
		return "The proxy does not do this."
	case wire.ReplyAddressTypeNotSupported:
		return "The destination's kind of address cannot be reached from here."
	default:
		return "The connection to the destination failed."
	}
}
