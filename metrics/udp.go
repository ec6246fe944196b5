package metrics

import (
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// Outcomes of a datagram.
const (
	UDPRelayed     = "relayed"      // sent on
	UDPMalformed   = "malformed"    // runt, unknown address type, port 0, bad name
	UDPWrongClient = "wrong_client" // not from the client's address, or not from its port
	UDPDenied      = "denied"       // by the rules
	UDPUnresolved  = "unresolved"   // its name has no usable address
	UDPFragment    = "fragment"     // a fragment that was kept, or given up
	UDPOverload    = "overload"     // a queue or table is full
	UDPLimited     = "limited"      // bandwidth
	UDPFiltered    = "filtered"     // a reply from a host that was not sent to
	UDPTooBig      = "too_big"      // does not fit a datagram with its header
	UDPError       = "error"        // the system would not send it
)

// Reasons for which an association is refused.
const (
	UDPRefusedDisabled    = "disabled"     // udp.enabled
	UDPRefusedUserLimit   = "user_limit"   // udp.max_associations_per_user
	UDPRefusedServerLimit = "server_limit" // the server's cap
	UDPRefusedSocket      = "socket"       // no port or no descriptor
	UDPRefusedUpstream    = "upstream"     // the upstream would not associate
)

// UDP counts associations and their datagrams.
type UDP struct {
	Associations *atomic.Int64 // active
	Refused      CounterVec    // by reason
	Datagrams    CounterVec2   // by direction (in: from the client) and outcome
}

func newUDP(set *vm.Set) UDP {
	u := UDP{
		Associations: new(atomic.Int64),
		Refused: newCounterVec(set, "cleversocks_udp_associations_refused_total", "reason",
			UDPRefusedDisabled, UDPRefusedUserLimit, UDPRefusedServerLimit, UDPRefusedSocket, UDPRefusedUpstream),
		Datagrams: newCounterVec2(set, "cleversocks_udp_datagrams_total", [2]string{"direction", "outcome"},
			[]string{"in", "out"}, []string{
				UDPRelayed, UDPMalformed, UDPWrongClient, UDPDenied, UDPUnresolved, UDPFragment,
				UDPOverload, UDPLimited, UDPFiltered, UDPTooBig, UDPError,
			}),
	}
	set.NewGauge("cleversocks_udp_associations_active", func() float64 { return float64(u.Associations.Load()) })
	return u
}
