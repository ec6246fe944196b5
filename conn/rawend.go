package conn

import "net"

// rawEnd is a socket by its descriptor alone, of a session that a reactor serves:
// one above it, so that the zero rawEnd is none.
type rawEnd int32

// rawEnds are both sockets of such a session. The mutex of its scope guards them
// against who looks on from other goroutines.
type rawEnds struct{ client, server rawEnd }

// rawEndOf is the socket with a descriptor.
func rawEndOf(fd int) rawEnd { return rawEnd(fd + 1) }

func (e rawEnd) fd() int { return int(e) - 1 }

// control makes it a dialedSocket.
func (e rawEnd) control(f func(fd uintptr)) error {
	if e == 0 {
		return net.ErrClosed
	}
	f(uintptr(e.fd()))
	return nil
}

// closeRaw closes what a session has as descriptors.
func (s *session) closeRaw() {
	s.scope.mu.Lock()
	raw := s.raw
	s.raw = rawEnds{}
	s.scope.mu.Unlock()
	raw.client.close()
	raw.server.close()
}
