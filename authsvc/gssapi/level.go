package gssapi

import (
	"errors"
	"fmt"
	"slices"

	"cleversocks/authsvc"
)

// Protection is what a listener allows of the levels, and how it is agreed on.
type Protection struct {
	Levels []Level // that are granted
	// NEC takes the level as one bare byte, as the SOCKS server of NEC did
	// and curl does with --socks5-gssapi-nec. Nothing protects it from being
	// changed on the way.
	NEC bool
}

// LevelMessage is the type of the message with the level, for SplitToken.
const LevelMessage = typeLevel

// TokenMessage is the type of the message with a token, for SplitToken.
const TokenMessage = typeToken

// Agree reads the client's level message and answers with the level that is
// granted (RFC 1961 §4): what the client asks for, or the lowest allowed one
// that protects more. The error is a *authsvc.Refusal.
func (p Protection) Agree(security authsvc.Security, message []byte) (level Level, answer []byte, err error) {
	nec := len(message) == 1
	var asked Level
	switch {
	case nec && !p.NEC:
		return 0, nil, &authsvc.Refusal{Reason: authsvc.ReasonLevel, Err: errors.New("the level came unprotected, as in NEC's mode, which is not allowed here")}
	case nec:
		asked = Level(message[0])
	default:
		text, _, err := security.Unwrap(message)
		if err != nil || len(text) != 1 {
			return 0, nil, &authsvc.Refusal{Reason: authsvc.ReasonMalformed, Err: errors.Join(errors.New("the message with the level cannot be read"), err)}
		}
		asked = Level(text[0])
	}
	level, ok := p.grant(asked)
	if !ok {
		return 0, nil, &authsvc.Refusal{Reason: authsvc.ReasonLevel, Err: fmt.Errorf("the client asks for %s, and %v is allowed", asked, p.Levels)}
	}
	if nec {
		return level, AppendFrame(nil, typeLevel, []byte{byte(level)}), nil
	}
	return level, AppendFrame(nil, typeLevel, security.Wrap(nil, []byte{byte(level)}, false)), nil
}

// grant is the level that is given to a client that asks for one. A client
// which asks for more than there is gets what it asked for or nothing.
func (p Protection) grant(asked Level) (Level, bool) {
	levels := slices.Sorted(slices.Values(p.Levels))
	for _, l := range levels {
		if l >= asked {
			return l, true
		}
	}
	return 0, false
}
