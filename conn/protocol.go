package conn

import (
	"slices"
	"strings"

	"cleversocks/authsvc"
	"cleversocks/conn/cause"
	"cleversocks/conn/handshake"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/listener/transparent"
	"cleversocks/metrics"
)

// spoken are the protocols that a first byte tells.
var spoken = Protocols(handshake.Spoken())

// Protocols are protocols of a listener.
type Protocols []wire.Protocol

// Spoken are the protocols that a listener may speak, in the order in which
// they are told apart.
func Spoken() Protocols { return slices.Clone(spoken) }

// Has reports whether p is one of them.
func (list Protocols) Has(p wire.Protocol) bool { return slices.Contains(list, p) }

// Speaks says in words what is spoken at a listener.
func (l Listener) Speaks() string {
	if l.Transparent != transparent.Off {
		return "takes connections that a packet filter turns to it"
	}
	names := make([]string, 0, len(l.Protocols))
	for _, p := range l.Protocols {
		names = append(names, p.String())
	}
	return "speaks " + strings.Join(names, ", ")
}

// Labels are the values that the labels of metrics have here.
func Labels() metrics.Labels {
	l := metrics.Labels{Causes: cause.Tunnel(), Panics: task.Places()}
	for _, m := range authsvc.Methods() {
		l.Methods = append(l.Methods, string(m))
	}
	for _, k := range authsvc.Kinds() {
		l.Kinds = append(l.Kinds, string(k))
	}
	for _, p := range handshake.Protocols() {
		l.Protocols = append(l.Protocols, p.String())
	}
	return l
}
