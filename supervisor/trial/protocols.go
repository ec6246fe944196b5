package trial

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks4"
)

// socks5 is RFC 1928 with a password of RFC 1929.
func (t *trial) socks5() error {
	const none, password = 0, 2
	offer := []byte{5, 1, none}
	if t.User != "" {
		offer = []byte{5, 2, none, password}
	}
	var method byte
	if err := t.step("greeting", func() (string, error) {
		var err error
		method, err = t.answer(offer, 5)
		switch {
		case err != nil:
			return "", err
		case method == none:
			return "no log-in is needed", nil
		case method == password && t.User != "":
			return "a password is asked for", nil
		case t.User == "":
			return "", failed("give --user NAME", "the proxy wants a log-in (method %#02x)", method)
		}
		return "", failed("", "the proxy takes neither a password nor none (method %#02x)", method)
	}); err != nil {
		return err
	}
	if method == password {
		if err := t.step("login", func() (string, error) {
			message := append([]byte{1, byte(len(t.User))}, t.User...)
			message = append(append(message, byte(len(t.Password))), t.Password...)
			status, err := t.answer(message, 0)
			if err == nil && status != 0 {
				err = failed("the password may be wrong, or the user disabled, expired or not allowed from here: `cleversocks user show NAME`, and the proxy's log", "the proxy refuses user and password")
			}
			return "as " + t.User, err
		}); err != nil {
			return err
		}
	}
	return t.step("request", func() (string, error) {
		message, err := wire.AppendSOCKS5Addr([]byte{5, byte(wire.CommandConnect), 0}, t.To)
		if err != nil {
			return "", err
		}
		if _, err := t.conn.Write(message); err != nil {
			return "", err
		}
		code, bound, err := readReply(t.conn)
		if err != nil {
			return "", err
		}
		return t.replied(code, bound.String())
	})
}

// answer sends a message and reads the two bytes that answer it; version 0: any.
func (t *trial) answer(message []byte, version byte) (byte, error) {
	if _, err := t.conn.Write(message); err != nil {
		return 0, err
	}
	var two [2]byte
	if _, err := io.ReadFull(t.conn, two[:]); err != nil {
		return 0, err
	}
	if version != 0 && two[0] != version {
		return 0, failed("is it a proxy, and does it speak TLS?", "the answer is not SOCKS5: it begins with %q", two)
	}
	return two[1], nil
}

// readReply reads a reply of RFC 1928 §6.
func readReply(r io.Reader) (wire.ReplyCode, wire.Addr, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, wire.Addr{}, err
	}
	length := wire.SOCKS5AddrLen(head[3], head[4])
	if head[0] != 5 || length == 0 {
		return 0, wire.Addr{}, fmt.Errorf("the reply is not SOCKS5: it begins with %x", head)
	}
	address := make([]byte, length)
	copy(address, head[3:])
	if _, err := io.ReadFull(r, address[2:]); err != nil {
		return 0, wire.Addr{}, err
	}
	bound, _, err := wire.ParseSOCKS5Addr(address)
	if errors.Is(err, wire.ErrBadName) {
		err = nil // its address says nothing then
	}
	return wire.ReplyCode(head[1]), bound, err
}

// replied notes a reply, and is an error unless it is success.
func (t *trial) replied(code wire.ReplyCode, bound string) (string, error) {
	t.report.Reply = code.String()
	if code != wire.ReplySucceeded {
		return "", failed(t.advice(code), "the proxy replies %s", code)
	}
	t.report.Bound = bound
	return "the proxy's end is " + bound, nil
}

// advice is what to look at after a reply.
func (t *trial) advice(code wire.ReplyCode) string {
	switch code {
	case wire.ReplyNotAllowed:
		who := ""
		if t.User != "" {
			who = " --user " + t.User
		}
		return "a rule, or a limit of the user's: `cleversocks explain" + who + " --to " + t.To.String() + "` says which"
	case wire.ReplyHostUnreachable:
		return "the name has no address, or no route leads there: `cleversocks dns " + t.To.Host() + "`"
	case wire.ReplyConnectionRefused:
		return "the target was reached, and nobody listens at its port"
	case wire.ReplyTTLExpired:
		return "the target, or the upstream on the way to it, does not answer"
	case wire.ReplyGeneralFailure, wire.ReplyNetworkUnreachable:
		return "the record of this connection in the access log says more; with an upstream, `cleversocks upstreams`"
	default:
		return ""
	}
}

// socks4 is SOCKS4 for an address and 4a for a name, with the user as its id.
func (t *trial) socks4() error {
	return t.step("request", func() (string, error) {
		message, err := socks4.AppendRequest(nil, wire.CommandConnect, t.To, t.User)
		if err != nil {
			return "", err
		}
		if _, err := t.conn.Write(message); err != nil {
			return "", err
		}
		code, bound, err := socks4.ReadReply(t.conn)
		if err != nil {
			return "", err
		}
		if code != wire.ReplySucceeded {
			t.report.Reply = code.String()
			return "", failed("SOCKS4 tells no more: try --proxy socks5://..., and the access log", "the proxy refuses the request")
		}
		return t.replied(code, bound.String())
	})
}

// http is CONNECT.
func (t *trial) http() error {
	return t.step("request", func() (string, error) {
		var credentials *httpproxy.Credentials
		if t.User != "" {
			credentials = &httpproxy.Credentials{User: t.User, Password: t.Password}
		}
		if _, err := t.conn.Write(httpproxy.AppendConnect(nil, t.To, credentials)); err != nil {
			return "", err
		}
		status, err := httpproxy.ReadConnectReply(t.conn)
		switch {
		case err != nil:
			return "", err
		case status == http.StatusProxyAuthRequired && t.User == "":
			return "", failed("give --user NAME", "the proxy wants a log-in (407)")
		case status == http.StatusProxyAuthRequired:
			return "", failed("the password may be wrong, or the user disabled, expired or not allowed from here", "the proxy refuses user and password (407)")
		}
		code := httpproxy.ReplyCode(status)
		t.report.Reply = code.String()
		if code != wire.ReplySucceeded {
			return "", failed(t.advice(code), "the proxy answers %d", status)
		}
		return fmt.Sprintf("%d", status), nil
	})
}

// ParseTarget reads HOST:PORT.
func ParseTarget(text string) (wire.Addr, error) {
	host, port, err := netaddr.SplitHostPort(text)
	switch {
	case err != nil:
		return wire.Addr{}, err
	case port == 0:
		return wire.Addr{}, errors.New("port 0 is none that anything listens at")
	}
	return wire.ParseHost(host, port)
}
