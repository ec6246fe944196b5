//go:build !linux

package conn

import "net"

// awaitBytes does not wait on this system.
func awaitBytes(net.Conn, func()) bool { return false }
