// Command udpplain is the yardstick for the UDP relay: SOCKS5 UDP ASSOCIATE
// the plain way, one datagram per read and per write, without rules.
//
//	udpplain 127.0.0.1:1081
package main

import (
	"io"
	"log"
	"net"
	"net/netip"
	"os"

	"cleversocks/conn/wire"
)

func main() {
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn)
	}
}

func serve(control net.Conn) {
	defer func() { _ = control.Close() }()
	buf := make([]byte, 512)
	// Greeting, then the request: 4 bytes and an IPv4 address.
	if _, err := io.ReadFull(control, buf[:2]); err != nil {
		return
	}
	if _, err := io.ReadFull(control, buf[:buf[1]]); err != nil {
		return
	}
	if _, err := control.Write([]byte{5, 0}); err != nil {
		return
	}
	if _, err := io.ReadFull(control, buf[:10]); err != nil {
		return
	}
	local := control.LocalAddr().(*net.TCPAddr)
	inside, err := net.ListenUDP("udp4", &net.UDPAddr{IP: local.IP})
	if err != nil {
		return
	}
	defer func() { _ = inside.Close() }()
	outside, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return
	}
	defer func() { _ = outside.Close() }()
	reply := wire.AppendSOCKS5AddrPort([]byte{5, 0, 0}, inside.LocalAddr().(*net.UDPAddr).AddrPort())
	if _, err := control.Write(reply); err != nil {
		return
	}
	client := make(chan netip.AddrPort, 1)
	go toDestinations(inside, outside, client)
	go toClient(outside, inside, client)
	_, _ = io.Copy(io.Discard, control)
}

func toDestinations(inside, outside *net.UDPConn, client chan<- netip.AddrPort) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := inside.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		select {
		case client <- from:
		default:
		}
		if h, at, err := wire.ParseUDPHeader(buf[:n]); err == nil {
			_, _ = outside.WriteToUDPAddrPort(buf[at:n], netip.AddrPortFrom(h.Dest.IP, h.Dest.Port))
		}
	}
}

func toClient(outside, inside *net.UDPConn, client <-chan netip.AddrPort) {
	to := <-client
	buf := make([]byte, wire.MaxUDPReplyHeader+1<<16)
	for {
		n, from, err := outside.ReadFromUDPAddrPort(buf[10:])
		if err != nil {
			return
		}
		wire.AppendUDPReplyHeader(buf[:0], from)
		_, _ = inside.WriteToUDPAddrPort(buf[:10+n], to)
	}
}
