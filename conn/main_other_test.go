//go:build !linux

package conn

import "testing"

// onTestReactors has nothing to do: there are none here.
func (g *Group) onTestReactors(testing.TB) {}
