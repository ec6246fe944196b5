package conn

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"syscall"

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

// outcome is what an error means to everybody who is told of it.
type outcome struct {
	// reply is what a client of SOCKS5 is told (RFC 1928 §6). SOCKS4 has one code
	// for all failures.
	reply wire.ReplyCode
	// status is what a client of HTTP is told; 0: nobody is there to read it.
	status int
	// sentence tells a person, in the body of HTTP's answer.
	sentence string
	// proxyError tells a program, by the error types of RFC 9209 §2.3; "": nothing.
	proxyError string
	// cause is the access record's. "": there is no record, or the command knows
	// its own.
	cause string
	// handshake is the label of cleversocks_handshakes_total.
	handshake string
	// refusal is the label of cleversocks_requests_refused_total; "": policy had
	// no part in this.
	refusal string
	// final says that this is the cause even if the connection was told to end at
	// the same time.
	final bool

	rule string          // of a request that rules deny
	via  *upstream.Error // of one that an upstream failed
}

// phase is how far a connection has come when an error ends it.
type phase uint8

const (
	inHandshake phase = 1 << iota // up to the request
	inRequest                     // from the request to its answer
	inCommand                     // in a BIND or UDP ASSOCIATE, which know their own causes
	inTunnel                      // once the client was told that it is connected

	atAnyTime = inHandshake | inRequest | inCommand | inTunnel
	serving   = inRequest | inCommand
)

// outcomeRow says which errors have an outcome, and in which phases.
type outcomeRow struct {
	name string
	in   phase
	is   func(error) bool
	outcome
	more func(*outcome, error) // adds what only the error knows; may be nil
}

// outcomes are all there are: the first row that an error fits in its phase
// counts. What a row leaves out, complete adds.
var outcomes = []outcomeRow{
	// The request is not read, or its client not let in. That the time is over
	// counts before all that was read.
	{"cut short by a drain", inHandshake, among(errCutShort), outcome{handshake: "closed", cause: cause.Drained, status: http.StatusRequestTimeout, sentence: tooSlow}, nil},
	{"too slow", inHandshake, among(os.ErrDeadlineExceeded), outcome{handshake: "timeout", cause: cause.HandshakeTimeout, status: http.StatusRequestTimeout, sentence: tooSlow}, nil},
	{"probe", inHandshake, among(errProbe), outcome{handshake: "closed"}, nil},
	{"too many log in", inHandshake, among(authsvc.ErrBusy), loginRefused(http.StatusServiceUnavailable, "Too many log in at this time."), nil},
	{"no log-in", inHandshake, among(handshake.ErrCredentials, handshake.ErrLogin), loginRefused(http.StatusProxyAuthRequired, ""), nil},
	{"no method", inHandshake, among(handshake.ErrNoMethod), loginRefused(0, ""), nil},
	{"SOCKS5 request", atAnyTime, kind[*socks5.RequestError], malformed(0), socks5Reply},
	{"SOCKS4 command", inHandshake, among(socks4.ErrCommand), malformed(wire.ReplyCommandNotSupported), nil},
	{"HTTP request", inHandshake, kind[*httpproxy.StatusError], malformed(0), httpStatus},
	{"malformed", inHandshake, among(handshake.ErrProtocol, socks5.ErrMalformed, socks4.ErrMalformed, socks4.ErrTooLong), malformed(0), nil},
	{"door", inHandshake, kind[*doorError], malformed(0), nil},
	{"left in the handshake", inHandshake, failed, outcome{handshake: "closed", cause: cause.HandshakeFailed}, nil},

	// Policy refuses the request.
	{"denied", atAnyTime, kind[*deniedError], outcome{reply: wire.ReplyNotAllowed, cause: cause.Denied, refusal: metrics.RefusedByRule, final: true}, deniedBy},
	{"user's connections", atAnyTime, among(errUserLimit), tooMuch(cause.Denied, metrics.RefusedUserLimit, "The user has too many connections.", "connection_limit_reached"), nil},
	{"user's addresses", atAnyTime, among(errAddresses), tooMuch(cause.Denied, metrics.RefusedAddresses, "The user comes from too many addresses.", "connection_limit_reached"), nil},
	{"user's quota", atAnyTime, among(errQuota), tooMuch(cause.Quota, metrics.RefusedQuota, "The user's quota is used up.", ""), nil},
	{"shared state", atAnyTime, among(errUnknown), outcome{reply: wire.ReplyGeneralFailure, cause: cause.Denied, refusal: metrics.RefusedUnknown, sentence: "Nobody knows whether the user may have one more connection.", final: true}, nil},

	// A side broke once the client was told, or while it should have been.
	{"client broke", inCommand | inTunnel, among(errClientBroke), outcome{cause: cause.ClientReset}, nil},
	{"server broke", inTunnel, among(errServerBroke), outcome{cause: cause.ServerReset}, nil},

	// The request cannot be served. An upstream's errno, or a name server's, is
	// not the destination's: their rows come first.
	{"command", serving, among(errCommand), outcome{reply: wire.ReplyCommandNotSupported, cause: cause.HandshakeFailed, final: true}, nil},
	{"loop", serving, among(errLoop), outcome{reply: wire.ReplyNotAllowed}, nil},
	{"upstream", serving, kind[*upstream.Error], outcome{}, throughUpstream},
	{"no such name", serving, among(resolver.ErrNotFound), outcome{reply: wire.ReplyHostUnreachable}, nil},
	{"name servers are slow", serving, among(resolver.ErrTimeout), outcome{reply: wire.ReplyTTLExpired}, nil},
	{"name servers fail", serving, among(resolver.ErrServers), outcome{reply: wire.ReplyGeneralFailure}, nil},
	{"refused", serving, among(syscall.ECONNREFUSED), outcome{reply: wire.ReplyConnectionRefused}, nil},
	{"no way to the network", serving, among(syscall.ENETUNREACH, syscall.ENETDOWN), outcome{reply: wire.ReplyNetworkUnreachable}, nil},
	{"no way to the host", serving, among(syscall.EHOSTUNREACH, syscall.EHOSTDOWN, dial.ErrNoUsableAddress), outcome{reply: wire.ReplyHostUnreachable}, nil},
	// A firewall on the way that answers "administratively prohibited" is
	// EHOSTUNREACH over IPv4, and EACCES over IPv6. A command's EACCES is a port's.
	{"no way is allowed", inRequest, among(syscall.EACCES), outcome{reply: wire.ReplyHostUnreachable}, nil},
	{"no answer in time", serving, among(os.ErrDeadlineExceeded, context.DeadlineExceeded, syscall.ETIMEDOUT), outcome{reply: wire.ReplyTTLExpired}, nil},

	// The connection was told to end, or nothing else is known.
	{"ended", inRequest | inTunnel, kind[*relay.EndError], outcome{final: true}, endedFor},
	{"failed request", inRequest, failed, outcome{cause: cause.DialFailed}, nil},
	{"command with a cause of its own", inCommand, func(error) bool { return true }, outcome{}, nil},
	{"failed tunnel", inTunnel, failed, outcome{cause: cause.Error}, nil},
	{"whole", inHandshake | inRequest | inTunnel, func(err error) bool { return err == nil }, outcome{cause: cause.ServerClosed}, nil},
}

// tooSlow is the sentence for a client whose request does not come.
const tooSlow = "The request took too long."

// outcomeOf is what an error means in a phase. A nil error means success.
func outcomeOf(in phase, err error) outcome {
	i := slices.IndexFunc(outcomes, func(r outcomeRow) bool { return r.in&in != 0 && r.is(err) })
	o := outcomes[i].outcome // the last rows fit whatever there is
	if outcomes[i].more != nil {
		outcomes[i].more(&o, err)
	}
	return o.complete(in, err)
}

// complete adds what follows from the reply, and in a request that it failed.
func (o outcome) complete(in phase, err error) outcome {
	if err != nil && o.reply == wire.ReplySucceeded {
		o.reply = wire.ReplyGeneralFailure
	}
	if in == inHandshake {
		return o
	}
	if in == inRequest {
		o.cause = cmp.Or(o.cause, cause.DialFailed)
	}
	o.status = cmp.Or(o.status, httpproxy.Status(o.reply))
	o.sentence = cmp.Or(o.sentence, httpproxy.Reason(o.reply))
	o.proxyError = cmp.Or(o.proxyError, httpproxy.ProxyError(o.reply))
	return o
}

// replyCode is what a client is told of an error of its request.
func replyCode(err error) wire.ReplyCode { return outcomeOf(inRequest, err).reply }

// outcome is what an error means to a session, which may have been told to end:
// then that is why, and the error only what it met.
func (s *session) outcome(in phase, err error) outcome {
	switch {
	case in != inHandshake:
	case errors.Is(err, os.ErrDeadlineExceeded) && s.isCutShort():
		err = errCutShort
	case s.protocol == wire.ProtocolUnknown && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) && !atDoor(err)):
		err = errProbe // many end by a reset, also behind a TLS handshake
	}
	o := outcomeOf(in, err)
	if s.ctx.Err() != nil && !o.final {
		o.cause, o.handshake = endCause(s.ctx), "closed"
	}
	return o
}

// endCause is why a session's context ended.
func endCause(ctx context.Context) string {
	if ended, ok := errors.AsType[*relay.EndError](context.Cause(ctx)); ok {
		return ended.Cause
	}
	return cause.Drained
}

func loginRefused(status int, sentence string) outcome {
	return outcome{reply: wire.ReplyNotAllowed, handshake: "refused", cause: cause.Denied, status: status, sentence: sentence}
}

func malformed(reply wire.ReplyCode) outcome {
	return outcome{reply: reply, handshake: "malformed", cause: cause.HandshakeFailed}
}

func tooMuch(why, refusal, sentence, proxyError string) outcome {
	return outcome{
		reply: wire.ReplyNotAllowed, cause: why, refusal: refusal, sentence: sentence, proxyError: proxyError, final: true,
	}
}

func socks5Reply(o *outcome, err error) {
	request, _ := errors.AsType[*socks5.RequestError](err)
	o.reply = request.Reply
}

func httpStatus(o *outcome, err error) {
	request, _ := errors.AsType[*httpproxy.StatusError](err)
	o.status, o.sentence = request.Status, request.Reason
}

func deniedBy(o *outcome, err error) {
	denied, _ := errors.AsType[*deniedError](err)
	o.rule = denied.rule
}

func throughUpstream(o *outcome, err error) {
	o.via, _ = errors.AsType[*upstream.Error](err)
	o.reply, o.sentence = o.via.ReplyCode(), o.via.Sentence()
}

func endedFor(o *outcome, err error) {
	ended, _ := errors.AsType[*relay.EndError](err)
	o.cause = ended.Cause
}

// among are the errors that wrap one of a list.
func among(list ...error) func(error) bool {
	return func(err error) bool {
		return slices.ContainsFunc(list, func(one error) bool { return errors.Is(err, one) })
	}
}

// kind are the errors that wrap one of a type.
func kind[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func failed(err error) bool { return err != nil }
