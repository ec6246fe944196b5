package metrics

import vm "github.com/VictoriaMetrics/metrics"

// Outcomes of one query to one server, or of a look-up in the hosts file.
const (
	DNSOK        = "ok"
	DNSNotFound  = "not_found" // NXDOMAIN, or no record of the type
	DNSTimeout   = "timeout"
	DNSRefused   = "refused"   // the server said SERVFAIL, REFUSED or the like
	DNSMalformed = "malformed" // no answer to what was asked
	DNSTLS       = "tls"       // the server's certificate or handshake
	DNSCancelled = "cancelled" // nobody waits any more, or another server was faster
	DNSError     = "error"     // the network
)

// Outcomes of a look-up in the cache.
const (
	CacheHit             = "hit"
	CacheMiss            = "miss"
	CacheNegative        = "negative" // known not to exist
	CacheFailure         = "failure"  // known that no server answers
	CacheStale           = "stale"    // served past its time, RFC 8767
	CacheShared          = "shared"   // joined a query in flight
	CachePrefetch        = "prefetch" // asked again before its end
	CachePrefetchDropped = "prefetch_dropped"
	CacheEvicted         = "evicted" // to make room
)

// DNS counts name resolution.
type DNS struct {
	Lookups  CounterVec2 // by transport and outcome: one query to one server
	Cache    CounterVec  // by outcome
	Dropped  CounterVec  // answers that were not believed, by reason
	Limits   CounterVec  // bounds that were met: Registry.Limits
	Duration *vm.PrometheusHistogram
}

func newDNS(set *vm.Set, limits CounterVec) DNS {
	return DNS{
		Limits: limits,
		Lookups: newCounterVec2(set, "cleversocks_dns_lookups_total", [2]string{"transport", "outcome"},
			[]string{"hosts", "udp", "tcp", "tls", "https"},
			[]string{DNSOK, DNSNotFound, DNSTimeout, DNSRefused, DNSMalformed, DNSTLS, DNSCancelled, DNSError}),
		Cache: newCounterVec(set, "cleversocks_dns_cache_total", "outcome",
			CacheHit, CacheMiss, CacheNegative, CacheFailure, CacheStale, CacheShared,
			CachePrefetch, CachePrefetchDropped, CacheEvicted),
		Dropped: newCounterVec(set, "cleversocks_dns_answers_dropped_total", "reason",
			"malformed", "id", "question", "case", "poisoned"),
		// The time of a look-up that was not answered by the cache or the
		// hosts file.
		Duration: set.NewPrometheusHistogramExt("cleversocks_dns_lookup_duration_seconds",
			[]float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}),
	}
}
