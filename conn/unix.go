package conn

import (
	"context"
	"fmt"
	"net"

	"cleversocks/authsvc"
)

// OverUnix asks the kernel who has connected to a unix socket, for the record,
// and knows those whose user id is a user.
func OverUnix(users map[uint32]string) Step {
	return func(_ context.Context, e *Entrance) error {
		c, ok := e.Conn.(*net.UnixConn)
		if !ok {
			return fmt.Errorf("%T is no unix socket", e.Conn)
		}
		uid, err := peerUID(c)
		if err != nil {
			return fmt.Errorf("who has connected: %w", err)
		}
		e.Peer = fmt.Sprintf("unix:uid=%d", uid)
		if user := users[uid]; user != "" {
			e.Credentials = authsvc.Peer{UID: uid, User: user}
		}
		return nil
	}
}
