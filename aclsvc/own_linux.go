package aclsvc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostRanges is what the kernel delivers to this host: the local table, as
// `ip route show table local` lists it, in which also ranges stand that were
// routed here ("ip route add local 198.51.100.0/24 dev lo") and are on no
// interface. Where the table cannot be read (a sandbox without netlink), it is
// the interfaces' addresses.
func hostRanges() ([]netip.Prefix, error) {
	interfaces, err := interfaceAddrs()
	routes, netlinkErr := localRoutes()
	if netlinkErr != nil {
		return interfaces, errors.Join(err, fallback(netlinkErr, interfaces))
	}
	return append(interfaces, routes...), nil
}

// fallback is the error of a look that found nothing at all.
func fallback(err error, found []netip.Prefix) error {
	if len(found) > 0 {
		return nil
	}
	return err
}

// localRoutes asks the kernel for the routes of its local table.
func localRoutes() ([]netip.Prefix, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written that could be lost
	// Since Linux 4.20 the kernel looks at the table that the request names, and
	// a router's million other routes stay where they are; before, all come.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	var out []netip.Prefix
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := unix.Sendto(fd, routeRequest(family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, os.NewSyscallError("sendto", err)
		}
		if out, err = readRoutes(fd, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// routeRequest is a dump request for the local table of a family.
func routeRequest(family uint8) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETROUTE)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(b[8:], 1)
	b[unix.SizeofNlMsghdr] = family
	b[unix.SizeofNlMsghdr+4] = unix.RT_TABLE_LOCAL
	return b
}

// readRoutes reads one dump to its end.
func readRoutes(fd int, out []netip.Prefix) ([]netip.Prefix, error) {
	buffer := make([]byte, 1<<16) // more than the kernel puts into a message
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
		for i := range messages {
			m := &messages[i]
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return out, nil
			case unix.NLMSG_ERROR:
				return nil, errors.New("netlink: the kernel refuses to list its routes")
			case unix.RTM_NEWROUTE:
				if p, ok := localRoute(m); ok {
					out = append(out, p)
				}
			}
		}
	}
}

// localRoute is the destination of a route of type local.
func localRoute(m *syscall.NetlinkMessage) (netip.Prefix, bool) {
	if len(m.Data) < unix.SizeofRtMsg || m.Data[4] != unix.RT_TABLE_LOCAL || m.Data[7] != unix.RTN_LOCAL {
		return netip.Prefix{}, false
	}
	bits := int(m.Data[1])
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return netip.Prefix{}, false
	}
	addr := netip.IPv6Unspecified() // a route without a destination is for all
	if m.Data[0] == unix.AF_INET {
		addr = netip.IPv4Unspecified()
	}
	for _, a := range attributes {
		if a.Attr.Type == unix.RTA_DST {
			if ip, ok := netip.AddrFromSlice(a.Value); ok {
				addr = ip
			}
		}
	}
	p, err := addr.Prefix(bits)
	return p, err == nil
}
