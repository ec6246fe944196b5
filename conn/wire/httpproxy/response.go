package httpproxy

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"cleversocks/conn/wire"
)

// AppendEstablished appends the head of the answer to a CONNECT that worked, with
// fields, each with its line's end. Write it in one call: some clients (PySocks)
// read it with one recv.
func AppendEstablished(b []byte, fields string) []byte {
	b = append(b, "HTTP/1.1 200 Connection established\r\n"...)
	return append(append(b, fields...), "\r\n"...)
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

// Challenges are the values of Proxy-Authenticate that a 407 asks with, a field
// for each: Chromium reads no list of them.
type Challenges []string

// AuthRequired is a 407. Keep the connection: clients that ask first log in on
// the same one (git, Java, curl --proxy-anyauth).
func AuthRequired(c Challenges, keep bool) Refusal {
	var fields strings.Builder
	for _, challenge := range c {
		fields.WriteString("Proxy-Authenticate: " + challenge + "\r\n")
	}
	return Refusal{Status: http.StatusProxyAuthRequired, Reason: "This proxy needs to know who you are.", Fields: fields.String(), Keep: keep}
}

// AppendError appends a whole response with a status and one line that says
// why.
func AppendError(b []byte, status int, reason string, keep bool) []byte {
	return Refusal{Status: status, Reason: reason, Keep: keep}.Append(b, "")
}

// AppendAuthRequired appends the answer of [AuthRequired].
func AppendAuthRequired(b []byte, c Challenges, keep bool) []byte {
	return AuthRequired(c, keep).Append(b, "")
}

// Negotiate is the challenge that asks for a ticket (RFC 4559).
const Negotiate = "Negotiate"

// NegotiateField is the field that answers a client's token with ours; "" for
// none.
func NegotiateField(token []byte) string {
	if len(token) == 0 {
		return ""
	}
	return "Proxy-Authenticate: " + Negotiate + " " + base64.StdEncoding.EncodeToString(token) + "\r\n"
}

// Basic is the challenge that asks for user and password (RFC 7617 §2.1: names
// and passwords are UTF-8).
func Basic(realm string) string {
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
