//go:build !linux

package listener

import (
	"errors"
	"net"
	"syscall"
)

type rawConn = syscall.RawConn

// setSocketOptions refuses what only Linux has.
func setSocketOptions(_ rawConn, o Options) error {
	if o.Shards > 1 || o.Congestion != "" {
		return errors.New("reuse_port and congestion need Linux")
	}
	return nil
}

// CheckCongestion refuses what only Linux has.
func CheckCongestion(name string) error {
	if name != "" {
		return errors.New("congestion control needs Linux")
	}
	return nil
}

func systemCongestion() (string, error) { return "", nil }

func newTCPSocket(l *net.TCPListener, _ bool) socket { return l }

// queued is not known here.
func queued(rawConn) bool { return false }

// keepOut is not known here.
func keepOut(rawConn) bool { return false }

func letIn(rawConn) {}
