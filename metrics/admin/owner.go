package admin

import (
	"net"
	"net/http"
	"os"
	"syscall"
)

// isOwner says whether the request came over the endpoint's unix socket from
// the user whom the daemon runs as, or from root: such a one could as well read
// the token.
func isOwner(r *http.Request) bool {
	socket, _ := r.Context().Value(placeKey{}).(net.Conn)
	c, ok := unprobed(socket).(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	owner := false
	err = raw.Control(func(fd uintptr) {
		peer, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		owner = err == nil && (peer.Uid == 0 || int(peer.Uid) == os.Geteuid())
	})
	return err == nil && owner
}
