package conn

import (
	"testing"

	"cleversocks/conn/wire"
	"cleversocks/listener/transparent"
	"cleversocks/metrics"
)

// A byte begins one protocol at most: the order of the table decides nothing
// that a client could notice.
func TestFirstByte(t *testing.T) {
	for b := range 256 {
		var begun Protocols
		for _, p := range protocols {
			if p.begins != nil && p.begins(byte(b)) {
				begun = append(begun, p.name)
			}
		}
		if len(begun) > 1 {
			t.Errorf("the byte %#02x begins %s", b, begun)
		}
	}
}

// Adding a protocol once compiled and then ended the daemon, with a counter
// that was not there: the labels of metrics were a list of their own. Each
// protocol has its series now, and one of nobody's counts as "other".
func TestProtocolLabels(t *testing.T) {
	m := metrics.With(Labels())
	gauges := make(map[any]wire.Protocol)
	for _, p := range append(Protocols{wire.ProtocolUnknown, "gopher"}, names(protocols)...) {
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

func names(table []protocol) (list Protocols) {
	for _, p := range table {
		list = append(list, p.name)
	}
	return list
}

// What a listener does not speak is an error that names it, and a transparent
// one asks for no byte: its clients may wait for their server's.
func TestProtocolAt(t *testing.T) {
	say := func(b byte) func() (byte, error) { return func() (byte, error) { return b, nil } }
	for name, tt := range map[string]struct {
		l     Listener
		first func() (byte, error)
		want  wire.Protocol
	}{
		"all":                {Listener{Protocols: Spoken()}, say('G'), wire.HTTP},
		"not here":           {Listener{Protocols: Protocols{wire.HTTP}}, say(5), ""},
		"nothing":            {Listener{Protocols: Spoken()}, say(0x16), ""},
		"a closed listener":  {Listener{}, say(5), ""},
		"transparent, first": {Listener{Transparent: transparent.Redirect}, nil, wire.Transparent},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := protocolAt(tt.l, tt.first)
			if p.name != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q, %v", p.name, err)
			}
		})
	}
}
