//go:build !linux

package conn

import "net"

// clientGone cannot be told without reading on this system.
func clientGone(net.Conn, bool) bool { return false }
