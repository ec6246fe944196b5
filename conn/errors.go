package conn

import (
	"errors"
	"net/netip"

	"cleversocks/udprelay"
)

// The errors of this package that have an outcome of their own. Those that one
// file alone makes are there.
var (
	// errCommand is a command that is not served.
	errCommand = errors.New("command not supported")
	// errProbe is a connection that closes without a byte, as those of a load
	// balancer do that looks whether somebody listens.
	errProbe = errors.New("closed without a byte")
	// errCutShort is a handshake whose time a drain has cut short.
	errCutShort = errors.New("the daemon drains")
	// errClientBroke and errServerBroke are sides that broke while bytes were
	// passed on ahead of the relay.
	errClientBroke = errors.New("the client's connection broke")
	errServerBroke = errors.New("the server's connection broke")
)

// The refusals of a user who has too much: policy, as the client sees it.
var (
	errUserLimit = errors.New("the user has too many connections")
	errAddresses = errors.New("the user comes from too many addresses")
	errQuota     = errors.New("the user's quota is used up")
	// errUnknown: the settings want no connection that the other replicas have
	// not agreed to (shared_state.on_error).
	errUnknown = errors.New("the shared state does not answer")
)

// deniedError is a refusal by the rules.
type deniedError struct {
	rule  string
	where string     // "file:line" of the rule, if it is one
	addr  netip.Addr // that was judged; not valid: a name
	why   error      // says more; may be nil
}

func (e *deniedError) Error() string {
	if e.why != nil {
		return "denied by " + e.rule + ": " + e.why.Error()
	}
	if e.where != "" {
		return "denied by " + e.rule + " (" + e.where + ")"
	}
	return "denied by " + e.rule
}

// Is has an association count what waited for the name as refused.
func (e *deniedError) Is(target error) bool { return target == udprelay.ErrDenied }

// marked is an error that is also another one, and does not say so in words.
type marked struct {
	error
	as error
}

func (e marked) Unwrap() []error { return []error{e.error, e.as} }

// mark makes err one that errors.Is finds as to be in, too.
func mark(err, as error) error { return marked{err, as} }
