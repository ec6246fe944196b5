//go:build !linux

package proxyproto

import (
	"errors"
	"net"
)

func peekHeader(net.Conn) ([]byte, error) {
	return nil, errors.New("PROXY protocol: not supported on this system")
}
