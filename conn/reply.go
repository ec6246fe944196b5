package conn

import (
	"context"
	"errors"
	"os"
	"syscall"

	"cleversocks/conn/dial"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks5"
	"cleversocks/resolver"
)

// deniedError is a refusal by the rules.
type deniedError struct {
	rule  string
	where string // "file:line" of the rule, if it is one
}

func (e *deniedError) Error() string {
	if e.where != "" {
		return "denied by " + e.rule + " (" + e.where + ")"
	}
	return "denied by " + e.rule
}

// refusedError is a request that was read and is refused for a reason that the
// client is told. It does not show in a reply to HTTP, which has words.
type refusedError struct {
	code wire.ReplyCode
	err  error
}

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// errCommand is a command that is not served.
var errCommand = errors.New("command not supported")

// replyCode maps why a request failed to the code that its client is told,
// the one place that does (RFC 1928 §6).
func replyCode(err error) wire.ReplyCode {
	if request, ok := errors.AsType[*socks5.RequestError](err); ok {
		return request.Reply
	}
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return refused.code
	}
	if _, ok := errors.AsType[*deniedError](err); ok {
		return wire.ReplyNotAllowed
	}
	if via, ok := errors.AsType[*upstream.Error](err); ok {
		return via.ReplyCode() // whatever errno it wraps is the hop's
	}
	if code, ok := lookupReply(err); ok {
		return code // whatever errno it wraps is a name server's
	}
	switch {
	case err == nil:
		return wire.ReplySucceeded
	case errors.Is(err, errUserLimit), errors.Is(err, errAddresses), errors.Is(err, errQuota):
		return wire.ReplyNotAllowed
	case errors.Is(err, errCommand):
		return wire.ReplyCommandNotSupported
	case errors.Is(err, syscall.ECONNREFUSED):
		return wire.ReplyConnectionRefused
	case errors.Is(err, syscall.ENETUNREACH):
		return wire.ReplyNetworkUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH),
		errors.Is(err, dial.ErrNoUsableAddress):
		return wire.ReplyHostUnreachable
	case errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, syscall.ETIMEDOUT):
		return wire.ReplyTTLExpired
	}
	return wire.ReplyGeneralFailure
}

// lookupReply is the code for a name that could not be looked up.
func lookupReply(err error) (code wire.ReplyCode, ok bool) {
	switch {
	case errors.Is(err, resolver.ErrNotFound):
		return wire.ReplyHostUnreachable, true
	case errors.Is(err, resolver.ErrTimeout):
		return wire.ReplyTTLExpired, true
	case errors.Is(err, resolver.ErrServers):
		return wire.ReplyGeneralFailure, true
	}
	return 0, false
}
