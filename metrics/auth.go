package metrics

import (
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// Auth counts what authentication costs and keeps. Who was admitted how is in
// Conn.Auth.
type Auth struct {
	Hashed     *Counter // passwords that were hashed
	Remembered *Counter // passwords known from less than ten minutes ago
	Busy       *Counter // turned away because too many wait for a hash
	Waiting    *atomic.Int64
	Refused    CounterVec2 // by method and reason

	Bans            *Counter
	BansActive      *atomic.Int64
	ThrottleEvicted *Counter // sources forgotten because the table was full

	WhitelistSize    *atomic.Int64 // addresses let in by auth-once
	WhitelistEvicted CounterVec    // by reason

	QuotaExceeded *Counter    // connections that met their user's quota
	State         CounterVec2 // by file and outcome
}

// Why an address leaves the auth-once list.
const (
	EvictedExpired = "expired"
	EvictedFull    = "full"
	EvictedRevoked = "revoked"
)

// The state files and what can become of them.
const (
	StateQuotas = "quotas"
	StateBans   = "bans"
	StateOnce   = "once"
	StateReplay = "replays"

	StateSaved      = "saved"
	StateSaveFailed = "save_failed"
	StateLoadFailed = "load_failed"
	StateCorrupt    = "corrupt"
)

func newAuth(set *vm.Set, kinds []string) Auth {
	return Auth{
		Hashed:     set.NewCounter("cleversocks_auth_hashes_total"),
		Remembered: set.NewCounter("cleversocks_auth_remembered_total"),
		Busy:       set.NewCounter("cleversocks_auth_busy_total"),
		Waiting:    newGauge(set, "cleversocks_auth_waiting"),
		Refused: newCounterVec2(set, "cleversocks_auth_refused_total", [2]string{"method", "reason"}, kinds,
			[]string{
				"credentials", "busy", "banned", "repeated", "unavailable", "malformed", "mechanism", "ticket", "service", "key",
				"expired", "clock_skew", "replay", "protection",
				"disabled", "not_yet_valid", "no_longer_valid", "outside_hours",
			}),
		Bans:             set.NewCounter("cleversocks_bans_total"),
		BansActive:       newGauge(set, "cleversocks_bans_active"),
		ThrottleEvicted:  set.NewCounter("cleversocks_throttle_evicted_total"),
		WhitelistSize:    newGauge(set, "cleversocks_whitelist_size"),
		WhitelistEvicted: newCounterVec(set, "cleversocks_whitelist_evicted_total", "reason", EvictedExpired, EvictedFull, EvictedRevoked),
		QuotaExceeded:    set.NewCounter("cleversocks_quota_exceeded_total"),
		State: newCounterVec2(set, "cleversocks_state_total", [2]string{"file", "outcome"},
			[]string{StateQuotas, StateBans, StateOnce, StateReplay},
			[]string{StateSaved, StateSaveFailed, StateLoadFailed, StateCorrupt}),
	}
}

func newGauge(set *vm.Set, name string) *atomic.Int64 {
	n := new(atomic.Int64)
	set.NewGauge(name, func() float64 { return float64(n.Load()) })
	return n
}
