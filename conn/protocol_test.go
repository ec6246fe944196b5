package conn

import (
	"testing"

	"cleversocks/conn/handshake"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// Adding a protocol once compiled and then ended the daemon, with a counter
// that was not there: the labels of metrics were a list of their own. Each
// protocol has its series now, and one of nobody's counts as "other".
func TestProtocolLabels(t *testing.T) {
	m := metrics.With(Labels())
	gauges := make(map[any]wire.Protocol)
	for _, p := range append(Protocols{wire.ProtocolUnknown, "gopher"}, handshake.Protocols()...) {
		gauge := m.Conn.Active.Of(p.String())
		if before, ok := gauges[gauge]; ok {
			t.Errorf("%s counts as %s", p, before)
		}
		gauges[gauge] = p
		m.Conn.Handshakes.Of(p.String(), "ok").Inc()
		m.Conn.Handshakes.Of(p.String(), "no such outcome").Inc()
	}
	m.Conn.Panics.Of("nowhere").Inc()
	if m.Conn.Panics.Of("look-up") == m.Conn.Panics.Of("nowhere") {
		t.Error("panics of look-ups count as other")
	}
}
