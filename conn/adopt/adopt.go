// Package adopt makes conns of package net of sockets that something else has
// opened or accepted, with the options that these are to have.
//
//	c, err := adopt.Conn(fd, adopt.Options{NoDelay: true, KeepAlive: net.KeepAliveConfig{Enable: true, Idle: time.Minute}})
//
// Package net sets two options of its own on each TCP socket that it is given:
// TCP_NODELAY, and keepalive probes every 15 seconds. It does the same to what comes
// to a listening socket that it was given. Neither can be told otherwise, so the
// options are set once more behind it.
package adopt

import (
	"net"
	"os"
)

// Options are those that package net decides about by itself. All others stay as
// they are.
type Options struct {
	NoDelay   bool
	KeepAlive net.KeepAliveConfig // of which zero numbers are package net's own
}

// Conn makes a conn of a socket, which is closed as a descriptor in any case.
func Conn(fd int, o Options) (net.Conn, error) {
	if fd < 0 {
		return nil, os.ErrInvalid
	}
	c, err := fileConn(os.NewFile(uintptr(fd), ""))
	if err != nil {
		return nil, err
	}
	o.Set(c)
	return c, nil
}

// Set sets the options of a conn that package net has made by itself, if it is of
// TCP. Where that fails, its peer has just gone.
func (o Options) Set(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if !o.NoDelay { // it is turned on already
		_ = tcp.SetNoDelay(false)
	}
	_ = tcp.SetKeepAliveConfig(o.KeepAlive)
}
