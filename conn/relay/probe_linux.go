package relay

import "golang.org/x/sys/unix"

// A client's end of stream may be half of a close, and it still wants its
// download: or all of it, and the client is gone. Only bytes tell, since a
// client that is gone answers them with a reset (RFC 9293 §3.10.7.4). While the
// meter holds the download up there are none, for minutes on a crowded cap, and
// the tunnel kept its place. So one of the booked bytes goes ahead of its time.

// probe sends that byte, once, of a paused download. The caller holds t.mu.
func (p *pump) probe() {
	b := p.booking
	if b.probed || b.forEnd || b.granted == 0 || p.left > 0 || !p.src().isSocket() || !p.dst().isSocket() {
		return
	}
	b.probed = true
	var ahead [1]byte
	n := 0
	// It leaves the source once the destination has it: there may be no room. A
	// closed conn and a failed write need no answer: the reset is seen elsewhere.
	_ = p.src().withFD(func(from uintptr) {
		if got, _, err := unix.Recvfrom(int(from), ahead[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err != nil || got != 1 {
			return
		}
		_ = p.dst().withFD(func(to uintptr) { n, _ = rawIO(unix.SYS_WRITE, to, ahead[:]) })
		if n == 1 {
			_, _ = rawIO(unix.SYS_READ, from, ahead[:]) // peeked at: it is there
		}
	})
	if n == 1 {
		b.granted--
		p.t.meter.Settle(p.dir, 1, 1)
		p.count(1)
	}
}
