package need

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

// The ports that Free looks at, one after the other: the kernel gives others, who ask
// for any or connect, those from 32768 on, and tests that run meanwhile ask thousands
// of times.
const (
	firstFree = 20000
	lastFree  = 32000
)

// searched is how many ports this process has looked at. Packages are tested at the
// same time: each begins somewhere else.
var searched atomic.Uint32

// Free is a loopback address whose port nobody has, over TCP and UDP, on any address of
// this host, for a program that has to be told one. It stays free for as long as the
// program is not there.
func Free(t *testing.T) netip.AddrPort {
	t.Helper()
	for range lastFree - firstFree {
		n := uint32(os.Getpid())*61 + searched.Add(1)
		port := firstFree + n%(lastFree-firstFree)
		if isFree(port) {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
		}
	}
	t.Fatal("no port is free")
	return netip.AddrPort{}
}

func isFree(port uint32) bool {
	anywhere := ":" + strconv.Itoa(int(port))
	l, err := net.Listen("tcp", anywhere)
	if err != nil {
		return false
	}
	defer l.Close()
	pc, err := net.ListenPacket("udp", anywhere)
	if err != nil {
		return false
	}
	_ = pc.Close()
	return true
}
