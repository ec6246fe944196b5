//go:build !linux

package conn

import (
	"errors"
	"net"
)

// peerUID is for Linux.
func peerUID(*net.UnixConn) (uint32, error) { return 0, errors.ErrUnsupported }
