//go:build !linux

package listener

import (
	"errors"
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
