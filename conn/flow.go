package conn

import (
	"log/slog"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/udprelay"
)

// keepsFlows says whether there are records of an association's destinations.
func (a *AccessLog) keepsFlows() bool { return a != nil && a.keeps(cause.ClientClosed) }

// flow queues the record of one of an association's destinations. It never blocks.
func (a *AccessLog) flow(s *session, f *udprelay.Flow) {
	r := s.progress()
	r.flow = f
	a.enqueue(r)
}

// flowAttrs are the fields of a destination's record: those that say whose it
// is, and what was moved.
func (r *Record) flowAttrs() []slog.Attr {
	f := r.flow
	attrs := []slog.Attr{slog.String("id", r.ID), slog.String("listener", r.Listener), slog.String("client", r.Caller())}
	if r.User != "" {
		attrs = append(attrs, slog.String("user", r.User))
	}
	if f.Others {
		attrs = append(attrs, slog.String("target", "others"))
	} else {
		attrs = append(attrs, slog.String("target", f.Dest.String()))
	}
	if f.At.IsValid() {
		attrs = append(attrs, slog.String("host_ip", f.At.String()))
	}
	if r.Upstream != "" {
		attrs = append(attrs, slog.String("upstream", r.Upstream))
	}
	attrs = append(attrs,
		slog.Int64("bytes_in", f.Bytes[udprelay.FromClient]), slog.Int64("bytes_out", f.Bytes[udprelay.ToClient]),
		slog.Int64("datagrams_in", f.Datagrams[udprelay.FromClient]), slog.Int64("datagrams_out", f.Datagrams[udprelay.ToClient]),
		slog.Float64("duration_ms", float64(f.Duration/time.Microsecond)/1000))
	if r.Client.IsValid() {
		attrs = append(attrs, slog.String("client_ip", r.Client.Addr().String()), slog.Int("client_port", int(r.Client.Port())))
	}
	return attrs
}
