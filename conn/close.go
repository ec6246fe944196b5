package conn

import (
	"net"
	"time"
)

// What a refused client may still send before its connection is closed: its
// bytes are read so that the kernel does not answer them with a reset, which
// would destroy the reply on its way.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 64 << 10
)

// closePolitely ends a connection whose last reply must arrive: it shuts the
// write side down, reads a little of what still comes, and closes.
func closePolitely(c *net.TCPConn) {
	defer c.Close()
	if c.CloseWrite() != nil {
		return
	}
	if c.SetDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	var sink [512]byte
	for read := 0; read < lingerBytes; {
		n, err := c.Read(sink[:])
		if err != nil {
			return
		}
		read += n
	}
}

// reset closes a connection at once, with a reset instead of a clean end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}
