//go:build !linux

package conn

import (
	"context"
	"errors"
)

// onReactors is what a Group needs for sessions on reactors: nothing here.
type onReactors struct{}

// AcceptFrom leaves accepting to the caller: there are no reactors here.
func (g *Group) AcceptFrom(context.Context, <-chan struct{}, func() (int, bool, error), string, func(string)) error {
	return errors.ErrUnsupported
}
