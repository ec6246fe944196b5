package conn

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
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
		e.LocalUser = netaddr.LocalUser(uid)
		e.Peer = sourceText(e.LocalUser)
		if user := users[uid]; user != "" {
			e.Credentials = authsvc.Peer{UID: uid, User: user}
		}
		return nil
	}
}

// sourceText is a netaddr.SourceKey as operators read it in a log: an address, where
// it stands for one alone.
func sourceText(key netip.Addr) string {
	switch {
	case !key.IsValid():
		return "unix"
	case key.Is4():
		return key.String()
	}
	return netaddr.SourceText(netaddr.SourcePrefix(key))
}
