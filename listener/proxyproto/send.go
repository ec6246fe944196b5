package proxyproto

import (
	"fmt"
	"net"
	"net/netip"

	proxy "github.com/pires/go-proxyproto"

	"cleversocks/conn/netaddr"
)

// Send is the setting send_proxy: which header goes ahead of a connection. The
// zero value is none.
type Send string

// The choices of a header.
const (
	SendNone Send = "off"
	SendV1   Send = "v1"
	SendV2   Send = "v2"
)

// On says whether there is a header.
func (s Send) On() bool { return s != "" && s != SendNone }

// Header is what goes ahead of a client's connection; nil when nothing does.
// With two zero addresses it is that of a connection of our own.
func (s Send) Header(client, local netip.AddrPort) ([]byte, error) {
	switch s {
	case "", SendNone:
		return nil, nil
	case SendV1:
		return Append(nil, 1, client, local)
	case SendV2:
		return Append(nil, 2, client, local)
	}
	return nil, fmt.Errorf("send_proxy: %q is neither off, v1 nor v2", string(s))
}

// Append adds a header of version 1 or 2 that tells a server who the client is
// and where it connected to. Without both addresses it says so, in the words
// of the protocol: UNKNOWN, or LOCAL. Two families have no common line in
// version 1, so that it is UNKNOWN there too; version 2 tells both as IPv6. That
// is how haproxy does it.
func Append(dst []byte, version int, client, local netip.AddrPort) ([]byte, error) {
	client, local = netaddr.PlainPort(client), netaddr.PlainPort(local)
	mixed := client.Addr().Is4() != local.Addr().Is4()
	if !client.IsValid() || !local.IsValid() || mixed && version == 1 {
		client, local = netip.AddrPort{}, netip.AddrPort{}
	}
	header := proxy.HeaderProxyFromAddrs(byte(version), tcpAddr(client), tcpAddr(local))
	raw, err := header.Format()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	return append(dst, raw...), nil
}

// tcpAddr is the address as the library takes it; nil for the zero one.
func tcpAddr(a netip.AddrPort) net.Addr {
	if !a.IsValid() {
		return nil
	}
	return net.TCPAddrFromAddrPort(a)
}
