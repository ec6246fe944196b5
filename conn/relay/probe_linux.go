package relay

import "golang.org/x/sys/unix"

// A client's end of stream may be half of a close, and it still wants its
// download: or all of it, and the client is gone. Only bytes tell, since a
// client that is gone answers them with a reset (RFC 9293 §3.10.7.4). While the
// meter holds the download up there are none, for minutes on a crowded cap, and
// the tunnel kept its place. So one of the booked bytes goes ahead of its time.

// probe sends that byte, once, of a direction that its meter holds up. The
// caller moves the pump, or holds s.pumps.
func (p *pump) probe() {
	if p.probed || p.unbooked || p.granted == 0 || p.left > 0 || p.src.raw == nil || p.dst.raw == nil {
		return
	}
	p.probed = true
	var b [1]byte
	n := 0
	// It leaves the source once the destination has it: there may be no room. A
	// closed conn and a failed write need no answer: the reset is seen elsewhere.
	_ = p.src.raw.Control(func(from uintptr) {
		if got, _, err := unix.Recvfrom(int(from), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err != nil || got != 1 {
			return
		}
		_ = p.dst.raw.Control(func(to uintptr) { n, _ = rawIO(unix.SYS_WRITE, to, b[:]) })
		if n == 1 {
			_, _ = rawIO(unix.SYS_READ, from, b[:]) // peeked at: it is there
		}
	})
	if n == 1 {
		p.granted--
		p.s.o.Meter.Settle(p.dir, 1, 1)
		p.counter.Add(1)
		if p.metric != nil {
			p.metric.Add(1)
		}
	}
}

// probeIfLeft is for a download that begins a pause.
func (p *pump) probeIfLeft() {
	select {
	case <-p.clientEnded():
		p.probe()
	default:
	}
}

// clientEnded is closed when a client has sent its end of stream, for a
// download that has a meter.
func (p *pump) clientEnded() <-chan struct{} {
	if p.dir == Out {
		return p.s.clientEnded
	}
	return nil
}

// endSeen is for an upload that has ended: its download may be paused. The
// caller holds s.pumps.
func (p *pump) endSeen() {
	if out := p.opposite(); p.dir == In && out.where.at(paused) {
		out.probeIfLeft()
	}
}
