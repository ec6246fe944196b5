package udpbench

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"cleversocks/conn/wire"
)

// relayOnce is the least proxy that Measure can speak to: one association,
// one datagram at a time.
func relayOnce(t *testing.T, l net.Listener) {
	t.Helper()
	control, err := l.Accept()
	if err != nil {
		return
	}
	defer func() { _ = control.Close() }()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 1<<16)
	_, _ = control.Read(buf[:3])
	_, _ = control.Write([]byte{5, 0})
	_, _ = control.Read(buf[:10])
	_, _ = control.Write(wire.AppendSOCKS5AddrPort([]byte{5, 0, 0}, conn.LocalAddr().(*net.UDPAddr).AddrPort()))
	go func() {
		_, _ = control.Read(make([]byte, 1)) // the client's end is ours
		_ = conn.Close()
	}()
	var client *net.UDPAddr // the first to speak
	for {
		n, from, err := conn.ReadFromUDP(buf[10:])
		if err != nil {
			return
		}
		if client == nil {
			client = from
		}
		if from.Port != client.Port {
			wire.AppendUDPReplyHeader(buf[:0], from.AddrPort())
			_, _ = conn.WriteToUDP(buf[:10+n], client)
			continue
		}
		h, at, err := wire.ParseUDPHeader(buf[10 : 10+n])
		if err != nil {
			return
		}
		_, _ = conn.WriteToUDPAddrPort(buf[10+at:10+n], netip.AddrPortFrom(h.Dest.IP, h.Dest.Port))
	}
}

func TestMeasure(t *testing.T) {
	for _, offload := range []bool{false, true} {
		var r Result
		// A loaded machine may not get a datagram around in one measurement.
		for tries := 0; r.RoundTrips == 0; tries++ {
			if tries == 50 {
				t.Fatalf("offload %v: no datagram comes back: %+v", offload, r)
			}
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go relayOnce(t, l)
			r, err = Measure(t.Context(), l.Addr().String(), Options{Duration: 50 * time.Millisecond, Offload: offload})
			_ = l.Close()
			if err != nil {
				t.Fatalf("offload %v: %v", offload, err)
			}
		}
	}
}
