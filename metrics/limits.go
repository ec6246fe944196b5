package metrics

import vm "github.com/VictoriaMetrics/metrics"

// Bounds whose meeting is counted in no family of its own: a queue, a table or a
// share that is full. The log says what becomes of those beyond one.
const (
	LimitPipes        = "relay_pipes"         // a tunnel copies instead
	LimitRaces        = "dial_races"          // an address waits until another one has failed
	LimitDNSSockets   = "dns_sockets"         // a query shares a socket
	LimitDNSPipelined = "dns_pipelined"       // a query fails at its server
	LimitDNSSingle    = "dns_connections"     // a query waits for a connection of its own
	LimitHTTPHeads    = "http_heads"          // a large head is refused
	LimitStreams      = "http2_streams"       // a stream is refused, to be tried again
	LimitSources      = "connection_rate"     // a source is forgotten
	LimitBinds        = "bind_per_user"       // a BIND is refused
	LimitBindPorts    = "bind_ports"          // a BIND is refused
	LimitFragments    = "udp_fragments"       // a datagram in fragments is dropped
	LimitUserSeries   = "metrics_users"       // a user counts as "other"
	LimitRuleSeries   = "metrics_rules"       // rules count as "other"
	LimitAdmin        = "admin_connections"   // the quietest client, or the new one, is turned away
	LimitEventStreams = "admin_event_streams" // a stream is refused
	LimitEventQueue   = "admin_event_queue"   // an event is lost for one stream
)

func newLimits(set *vm.Set) CounterVec {
	return newCounterVec(set, "cleversocks_limits_reached_total", "limit",
		LimitPipes, LimitRaces, LimitDNSSockets, LimitDNSPipelined, LimitDNSSingle, LimitHTTPHeads, LimitStreams, LimitSources,
		LimitBinds, LimitBindPorts, LimitFragments, LimitUserSeries, LimitRuleSeries, LimitAdmin, LimitEventStreams, LimitEventQueue)
}
