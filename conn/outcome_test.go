package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cleversocks/authsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/dial"
	"cleversocks/conn/handshake"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks4"
	"cleversocks/conn/wire/socks5"
	"cleversocks/metrics"
	"cleversocks/resolver"
)

func dialErr(err error) error {
	return fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)})
}

// Every row of the table of outcomes is met by an error as it comes about, in
// each phase that the row is for, and nothing before it takes the error.
func TestOutcomes(t *testing.T) {
	denied := &deniedError{rule: "acl.rules[0]", where: "a.toml:1"}
	type want struct {
		in        phase
		err       error
		reply     wire.ReplyCode
		status    int
		cause     string
		handshake string
		refusal   string
		sentence  string // a part of it
	}
	const handshakes, requests, commands, tunnels = inHandshake, inRequest, inCommand, inTunnel
	rows := map[string][]want{
		"cut short by a drain": {{handshakes, errCutShort, wire.ReplyGeneralFailure, 408, cause.Drained, "closed", "", "too long"}},
		"too slow": {
			{handshakes, fmt.Errorf("read: %w", os.ErrDeadlineExceeded), wire.ReplyGeneralFailure, 408, cause.HandshakeTimeout, "timeout", "", "too long"},
			{handshakes, &doorError{os.ErrDeadlineExceeded}, wire.ReplyGeneralFailure, 408, cause.HandshakeTimeout, "timeout", "", ""},
		},
		"probe": {{handshakes, errProbe, wire.ReplyGeneralFailure, 0, "", "closed", "", ""}},
		"too many log in": {{
			handshakes, fmt.Errorf("%w: %w", handshake.ErrCredentials, authsvc.ErrBusy), wire.ReplyNotAllowed, 503, cause.Denied, "refused", "", "at this time",
		}},
		"no log-in": {
			{handshakes, fmt.Errorf("%w: wrong password", handshake.ErrCredentials), wire.ReplyNotAllowed, 407, cause.Denied, "refused", "", ""},
			{handshakes, handshake.ErrLogin, wire.ReplyNotAllowed, 407, cause.Denied, "refused", "", ""},
		},
		"no method": {{handshakes, handshake.ErrNoMethod, wire.ReplyNotAllowed, 0, cause.Denied, "refused", "", ""}},
		"SOCKS5 request": {
			{handshakes, &socks5.RequestError{Reply: wire.ReplyAddressTypeNotSupported}, wire.ReplyAddressTypeNotSupported, 0, cause.HandshakeFailed, "malformed", "", ""},
		},
		"SOCKS4 command": {{handshakes, socks4.ErrCommand, wire.ReplyCommandNotSupported, 0, cause.HandshakeFailed, "malformed", "", ""}},
		"HTTP request": {{
			handshakes, &httpproxy.StatusError{Status: 431, Reason: "Too large."}, wire.ReplyGeneralFailure, 431, cause.HandshakeFailed, "malformed", "", "Too large.",
		}},
		"malformed": {
			{handshakes, handshake.ErrProtocol, wire.ReplyGeneralFailure, 0, cause.HandshakeFailed, "malformed", "", ""},
			{handshakes, socks4.ErrTooLong, wire.ReplyGeneralFailure, 0, cause.HandshakeFailed, "malformed", "", ""},
		},
		"door":                  {{handshakes, &doorError{errors.New("tls")}, wire.ReplyGeneralFailure, 0, cause.HandshakeFailed, "malformed", "", ""}},
		"left in the handshake": {{handshakes, io.ErrUnexpectedEOF, wire.ReplyGeneralFailure, 0, cause.HandshakeFailed, "closed", "", ""}},
		"denied": {
			{requests, fmt.Errorf("x: %w", denied), wire.ReplyNotAllowed, 403, cause.Denied, "", metrics.RefusedByRule, "rules"},
			{requests, &dial.DeniedError{Err: denied}, wire.ReplyNotAllowed, 403, cause.Denied, "", metrics.RefusedByRule, "rules"},
			{commands, denied, wire.ReplyNotAllowed, 403, cause.Denied, "", metrics.RefusedByRule, ""},
			{tunnels, denied, wire.ReplyNotAllowed, 403, cause.Denied, "", metrics.RefusedByRule, ""},
		},
		"user's connections": {{requests, errUserLimit, wire.ReplyNotAllowed, 403, cause.Denied, "", metrics.RefusedUserLimit, "too many connections"}},
		"user's addresses":   {{requests, errAddresses, wire.ReplyNotAllowed, 403, cause.Denied, "", metrics.RefusedAddresses, "too many addresses"}},
		"user's quota":       {{requests, errQuota, wire.ReplyNotAllowed, 403, cause.Quota, "", metrics.RefusedQuota, "quota"}},
		"shared state":       {{requests, errUnknown, wire.ReplyGeneralFailure, 502, cause.Denied, "", metrics.RefusedUnknown, "one more connection"}},
		"command":            {{requests, errCommand, wire.ReplyCommandNotSupported, 501, cause.HandshakeFailed, "", "", "does not do this"}},
		"loop":               {{requests, errLoop, wire.ReplyNotAllowed, 403, cause.DialFailed, "", "", ""}},
		"upstream": {
			// Whatever errno it wraps is the hop's: a client must not believe that its
			// destination had refused.
			{requests, &upstream.Error{Upstream: "farm", Code: wire.ReplyGeneralFailure, Err: dialErr(syscall.ECONNREFUSED)}, wire.ReplyGeneralFailure, 502, cause.DialFailed, "", "", `"farm"`},
			{commands, &upstream.Error{Upstream: "farm", Code: wire.ReplyTTLExpired}, wire.ReplyTTLExpired, 504, "", "", "", "in time"},
		},
		"no such name":          {{requests, fmt.Errorf("x: %w", resolver.ErrNotFound), wire.ReplyHostUnreachable, 502, cause.DialFailed, "", "", "does not resolve"}},
		"name servers are slow": {{requests, fmt.Errorf("%w: %w", resolver.ErrTimeout, dialErr(syscall.ENETUNREACH)), wire.ReplyTTLExpired, 504, cause.DialFailed, "", "", ""}},
		"name servers fail": {
			// A dead name server made the client believe that its destination had
			// refused: the errno was the name server's.
			{requests, fmt.Errorf("%w: %w", resolver.ErrServers, dialErr(syscall.ECONNREFUSED)), wire.ReplyGeneralFailure, 502, cause.DialFailed, "", "", ""},
		},
		"refused": {{requests, dialErr(syscall.ECONNREFUSED), wire.ReplyConnectionRefused, 502, cause.DialFailed, "", "", "refused"}},
		"no way to the network": {
			{requests, dialErr(syscall.ENETUNREACH), wire.ReplyNetworkUnreachable, 502, cause.DialFailed, "", "", "network"},
			{requests, dialErr(syscall.ENETDOWN), wire.ReplyNetworkUnreachable, 502, cause.DialFailed, "", "", "network"},
		},
		"no way is allowed": {
			// Behind a firewall that rejects with "administratively prohibited", as
			// firewalld does, clients were told of a general failure over IPv6, and of
			// an unreachable host over IPv4.
			{requests, dialErr(syscall.EACCES), wire.ReplyHostUnreachable, 502, cause.DialFailed, "", "", "unreachable"},
		},
		"no way to the host": {
			{requests, dialErr(syscall.EHOSTDOWN), wire.ReplyHostUnreachable, 502, cause.DialFailed, "", "", "unreachable"},
			{requests, dialErr(syscall.EHOSTUNREACH), wire.ReplyHostUnreachable, 502, cause.DialFailed, "", "", "unreachable"},
			{commands, fmt.Errorf("x: %w", dial.ErrNoUsableAddress), wire.ReplyHostUnreachable, 502, "", "", "", ""},
		},
		"no answer in time": {
			{requests, dialErr(syscall.ETIMEDOUT), wire.ReplyTTLExpired, 504, cause.DialFailed, "", "", "in time"},
			{requests, fmt.Errorf("x: %w", context.DeadlineExceeded), wire.ReplyTTLExpired, 504, cause.DialFailed, "", "", ""},
		},
		"ended": {
			{requests, errClientGone, wire.ReplyGeneralFailure, 502, cause.ClientClosed, "", "", ""},
			{tunnels, relay.ErrQuota, wire.ReplyGeneralFailure, 502, cause.Quota, "", "", ""},
		},
		"client broke": {
			{tunnels, mark(syscall.EPIPE, errClientBroke), wire.ReplyGeneralFailure, 502, cause.ClientReset, "", "", ""},
			{commands, mark(syscall.EPIPE, errClientBroke), wire.ReplyGeneralFailure, 502, cause.ClientReset, "", "", ""},
		},
		"server broke":   {{tunnels, mark(syscall.EPIPE, errServerBroke), wire.ReplyGeneralFailure, 502, cause.ServerReset, "", "", ""}},
		"failed request": {{requests, dialErr(syscall.EMFILE), wire.ReplyGeneralFailure, 502, cause.DialFailed, "", "", "failed"}},
		"command with a cause of its own": {
			{commands, errors.New("no port"), wire.ReplyGeneralFailure, 502, "", "", "", ""},
			{commands, nil, wire.ReplySucceeded, 200, "", "", "", ""},
		},
		"failed tunnel": {{tunnels, dialErr(syscall.ECONNREFUSED), wire.ReplyGeneralFailure, 502, cause.Error, "", "", ""}},
		"whole":         {{tunnels, nil, wire.ReplySucceeded, 200, cause.ServerClosed, "", "", ""}},
	}
	for _, row := range outcomes {
		t.Run(row.name, func(t *testing.T) {
			if len(rows[row.name]) == 0 {
				t.Fatal("no error for this row")
			}
			for _, tt := range rows[row.name] {
				if by := rowOf(tt.in, tt.err); by != row.name || row.in&tt.in == 0 {
					t.Fatalf("%v in phase %b is met by %q", tt.err, tt.in, by)
				}
				o := outcomeOf(tt.in, tt.err)
				if o.reply != tt.reply || o.status != tt.status || o.cause != tt.cause || o.handshake != tt.handshake || o.refusal != tt.refusal {
					t.Errorf("%v: %+v", tt.err, o)
				}
				if !strings.Contains(o.sentence, tt.sentence) {
					t.Errorf("%v: the sentence %q", tt.err, o.sentence)
				}
				if o.cause != "" && !slices.Contains(cause.All(), o.cause) {
					t.Errorf("%v: nobody knows the cause %q", tt.err, o.cause)
				}
				tellsEverybody(t, o)
			}
		})
	}
	for name := range rows {
		if !slices.ContainsFunc(outcomes, func(r outcomeRow) bool { return r.name == name }) {
			t.Errorf("the table has no row %q", name)
		}
	}
}

// tellsEverybody checks what the clients of each protocol read of an outcome.
func tellsEverybody(t *testing.T, o outcome) {
	t.Helper()
	if got := socks5.AppendReply(nil, o.reply, netip.AddrPort{}); got[1] != byte(o.reply) {
		t.Errorf("SOCKS5: % x", got)
	}
	want := byte(91)
	if o.reply == wire.ReplySucceeded {
		want = 90
	}
	if got := socks4.AppendReply(nil, o.reply, netip.AddrPort{}); got[1] != want {
		t.Errorf("SOCKS4: % x", got)
	}
	if o.status == 0 || o.status == http.StatusOK || o.status == http.StatusProxyAuthRequired {
		return
	}
	s := &session{}
	answer := string(s.httpRefusal(o).Append(nil, http.MethodGet))
	if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", o.status)) || !strings.Contains(answer, o.sentence) || o.sentence == "" {
		t.Errorf("HTTP: %q", answer)
	}
}

func rowOf(in phase, err error) string {
	for _, r := range outcomes {
		if r.in&in != 0 && r.is(err) {
			return r.name
		}
	}
	return ""
}

// Each phase has an answer to every error, and success is told of none.
func TestOutcomeOfAnything(t *testing.T) {
	for _, in := range []phase{inHandshake, inRequest, inCommand, inTunnel} {
		for _, err := range []error{errors.New("anything"), errors.Join(errCommand, errQuota), relay.ErrDrained, &upstream.Error{}} {
			if o := outcomeOf(in, err); o.reply == wire.ReplySucceeded {
				t.Errorf("%v in phase %b: success", err, in)
			}
		}
		if o := outcomeOf(in, nil); o.reply != wire.ReplySucceeded {
			t.Errorf("nil in phase %b: %s", in, o.reply)
		}
	}
}

// A connection that was told to end tells that as its cause, unless policy had
// refused it by then.
func TestOutcomeOfAnEnd(t *testing.T) {
	s := &session{protocol: wire.SOCKS5}
	s.ctx = s.scope.begin(t.Context())
	s.cancel(relay.ErrRevoked)
	for err, want := range map[error]string{
		errors.New("use of closed connection"): cause.Revoked, &deniedError{rule: "default"}: cause.Denied, errQuota: cause.Quota,
	} {
		if o := s.outcome(inRequest, err); o.cause != want {
			t.Errorf("%v: %s, want %s", err, o.cause, want)
		}
	}
	if o := s.outcome(inHandshake, io.EOF); o.cause != cause.Revoked || o.handshake != "closed" {
		t.Errorf("in the handshake: %+v", o)
	}
}
