package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"cleversocks/conn/wire"
)

// ConfigError is something wrong with the settings.
type ConfigError struct {
	Path string // the setting: "upstream[0].via[1]", "forward[2].to[0]"
	Err  error  // repeats no secret
}

func (e *ConfigError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap is what is wrong.
func (e *ConfigError) Unwrap() error { return e.Err }

// Error is a failure on the way through an upstream.
type Error struct {
	Upstream string         // the upstream's name
	Hop      string         // the hop that failed or that said so, without credentials
	Stage    string         // dial, tls, negotiation, authentication, request
	Code     wire.ReplyCode // what to tell the client
	// HopFault says that the hop itself does not work, as opposed to a
	// destination that cannot be reached behind it.
	HopFault bool
	Status   int // of an HTTP hop that refused; 0: none
	Err      error
}

// Error names the upstream, unless whoever logs it does: a probe is of one member.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %s: %v", e.Hop, e.Stage, e.Err)
	if e.Upstream == "" {
		return text
	}
	return "upstream " + e.Upstream + ": " + text
}

// Unwrap is the cause. A hop's own errno is not to be mistaken for the
// destination's: map the error by [Error.Code].
func (e *Error) Unwrap() error { return e.Err }

// refusesUs reports a hop that works and wants nothing to do with us: whatever
// the destination, it will say the same.
func (e *Error) refusesUs() bool {
	return e.HopFault && (errors.Is(e.Err, ErrRefused) || errors.Is(e.Err, ErrCredentials))
}

// Sentence tells a client which upstream failed, and why. It names no address:
// those are the operator's.
func (e *Error) Sentence() string {
	why := "failed"
	switch {
	case errors.Is(e.Err, ErrCredentials):
		why = "does not accept this proxy's credentials"
	case e.Status != 0:
		why = fmt.Sprintf("refused: HTTP status %d %s", e.Status, http.StatusText(e.Status))
	case errors.Is(e.Err, ErrRefused):
		why = "refused: " + strings.ReplaceAll(e.Code.String(), "_", " ")
	case e.Code == wire.ReplyTTLExpired:
		why = "did not answer in time"
	case e.Stage == "dial":
		why = "cannot be reached"
	}
	return fmt.Sprintf("The upstream %q %s.", e.Upstream, why)
}

// ReplyCode is what to tell the client.
func (e *Error) ReplyCode() wire.ReplyCode { return e.Code }

// Errors below an Error.
var (
	// ErrRefused is a hop's own answer: it did not open the connection.
	ErrRefused = errors.New("refused by the upstream")
	// ErrNotSOCKS5 is a peer that speaks something else.
	ErrNotSOCKS5 = errors.New("the peer does not speak SOCKS5")
	// ErrMethods is a hop that accepts none of the methods that we offer.
	ErrMethods = errors.New("no acceptable authentication method")
	// ErrCredentials is a hop that refuses our user and password.
	ErrCredentials = errors.New("user and password refused")
	// ErrNoUDP is an upstream that cannot carry datagrams.
	ErrNoUDP = errors.New("only an upstream of a single socks5 hop carries datagrams")
	// ErrNoAddress is a hop that needs an address of another family, or an
	// address where there is a name.
	ErrNoAddress = errors.New("the upstream cannot be given this kind of address")
)

// hopError is a fault of the hop itself. Whatever its errno, the client's
// destination was not what failed: a general failure, or a time-out.
func hopError(hop Hop, stage string, err error) *Error {
	code := wire.ReplyGeneralFailure
	if isTimeout(err) {
		code = wire.ReplyTTLExpired
	}
	return &Error{Hop: hop.String(), Stage: stage, Code: code, HopFault: true, Err: err}
}

// replyError is a hop's word about the destination.
func replyError(hop Hop, code wire.ReplyCode) *Error {
	return &Error{Hop: hop.String(), Stage: "request", Code: code, Err: fmt.Errorf("%w: %v", ErrRefused, code)}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
