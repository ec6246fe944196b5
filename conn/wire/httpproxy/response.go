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

// AppendError appends a whole response with a status and one line that says
// why. With keep the connection goes on to another request, if the client is
// one of HTTP/1.1.
func AppendError(b []byte, status int, reason string, keep bool) []byte {
	return appendResponse(b, status, "", reason, keep)
}

// AppendAuthRequired appends a 407 that asks for Basic credentials. Keep the
// connection: clients that ask first log in on the same one (git, Java,
// curl --proxy-anyauth).
func AppendAuthRequired(b []byte, realm string, keep bool) []byte {
	return appendResponse(b, http.StatusProxyAuthRequired, "Proxy-Authenticate: "+Challenge(realm)+"\r\n",
		"This proxy needs a user and a password.", keep)
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

func appendResponse(b []byte, status int, fields, reason string, keep bool) []byte {
	connection := "close"
	if keep {
		connection = "keep-alive"
	}
	return fmt.Appendf(b, "HTTP/1.1 %d %s\r\n%sContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"+
		"Cache-Control: no-store\r\nConnection: %s\r\n\r\n%s\n",
		status, http.StatusText(status), fields, len(reason)+1, connection, reason)
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
