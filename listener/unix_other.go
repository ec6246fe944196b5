//go:build !linux

package listener

import "context"

// setFileMode does nothing: the mode is set once the file is there.
func setFileMode(rawConn, uint32) error { return nil }

// lockDirectory does nothing.
func lockDirectory(context.Context, string) (unlock func()) { return func() {} }
