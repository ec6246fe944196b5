package httpproxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"cleversocks/conn/wire"
)

// ErrMalformedReply is a reply to CONNECT that is no HTTP/1 head.
var ErrMalformedReply = errors.New("http: malformed reply to CONNECT")

// AppendConnect appends a client's CONNECT; with credentials unless nil.
func AppendConnect(b []byte, dest wire.Addr, c *Credentials) []byte {
	host := dest.String()
	b = fmt.Appendf(b, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", host, host)
	if c != nil {
		b = append(c.AppendBasic(append(b, "Proxy-Authorization: "...)), "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// ReadConnectReply reads the head of the answer to a CONNECT, interim (1xx)
// ones skipped, and not a byte of the tunnel behind it, so that the
// connection can be handed on as it is. It is the status that came.
func ReadConnectReply(r io.Reader) (status int, err error) {
	for range 4 {
		if status, err = readReplyHead(r); err != nil || status >= http.StatusOK {
			return status, err
		}
	}
	return 0, fmt.Errorf("%w: too many interim replies", ErrMalformedReply)
}

// readReplyHead reads to the end of one head, an empty line, and no further: at
// least two bytes are still to come while a line is not empty. Lines may end with a
// bare LF, as of servers: what parents send is read leniently.
func readReplyHead(r io.Reader) (int, error) {
	const inLine, atLine, behindCR = 0, 1, 2
	buf := make([]byte, 0, 256)
	// Judged as it comes in: a peer that speaks another protocol is told apart at its
	// first bytes, not at the cap.
	for next, at := len("HTTP"), inLine; ; {
		from := len(buf)
		if from > MaxHead {
			return 0, fmt.Errorf("%w: more than %d bytes", ErrMalformedReply, MaxHead)
		}
		buf = append(buf, make([]byte, next)...)
		if _, err := io.ReadFull(r, buf[from:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("http: reply to CONNECT: %w", err)
		}
		if n := min(len(buf), len(replyPrefix)); string(buf[:n]) != replyPrefix[:n] {
			return 0, fmt.Errorf("%w: it does not begin with HTTP/1", ErrMalformedReply)
		}
		if from < shortestReply && len(buf) >= shortestReply {
			if _, err := replyStatus(buf); err != nil {
				return 0, err
			}
		}
		for _, c := range buf[from:] {
			switch {
			case c == '\n' && at != inLine:
				return replyStatus(buf)
			case c == '\n':
				at = atLine
			case c == '\r' && at == atLine:
				at = behindCR
			default:
				at = inLine
			}
		}
		switch {
		case len(buf) < shortestReply:
			next = shortestReply - len(buf)
		case at == inLine:
			next = len("\n\n")
		default:
			next = len("\n")
		}
	}
}

// shortestReply is the length of the shortest head, whose status line ends where its
// empty line begins at the earliest.
const shortestReply = len("HTTP/1.1 200\n\n")

const replyPrefix = "HTTP/1."

// replyStatus reads "HTTP/1.x NNN", with a blank or the line's end behind it.
func replyStatus(head []byte) (int, error) {
	const digits = len("HTTP/1.1 ")
	if len(head) < digits+4 || head[digits-1] != ' ' || !strings.ContainsRune(" \r\n", rune(head[digits+3])) {
		return 0, fmt.Errorf("%w: status line", ErrMalformedReply)
	}
	status := 0
	for _, c := range head[digits : digits+3] {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%w: status", ErrMalformedReply)
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 || status > 599 {
		return 0, fmt.Errorf("%w: status %d", ErrMalformedReply, status)
	}
	return status, nil
}

// ReplyCode is what a status that an upstream gave to a CONNECT says of the
// destination. 407 and other statuses about the proxy itself are general
// failures: the client can do nothing about them.
func ReplyCode(status int) wire.ReplyCode {
	switch {
	case status >= 200 && status <= 299: // RFC 9110 §9.3.6: any 2xx
		return wire.ReplySucceeded
	case status == http.StatusForbidden:
		return wire.ReplyNotAllowed
	case status == http.StatusNotFound, status == http.StatusBadGateway:
		return wire.ReplyHostUnreachable
	case status == http.StatusServiceUnavailable:
		return wire.ReplyConnectionRefused
	case status == http.StatusGatewayTimeout:
		return wire.ReplyTTLExpired
	default:
		return wire.ReplyGeneralFailure
	}
}
