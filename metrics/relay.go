package metrics

import vm "github.com/VictoriaMetrics/metrics"

// Relay counts what moves between client and server.
type Relay struct {
	BytesIn  *Counter // from the client
	BytesOut *Counter // to the client
	Duration *vm.PrometheusHistogram
	End      CounterVec // by cause
}

func newRelay(set *vm.Set, causes []string) Relay {
	return Relay{
		BytesIn:  set.NewCounter(`cleversocks_relay_bytes_total{direction="in"}`),
		BytesOut: set.NewCounter(`cleversocks_relay_bytes_total{direction="out"}`),
		Duration: set.NewPrometheusHistogramExt("cleversocks_relay_duration_seconds",
			[]float64{0.01, 0.1, 1, 10, 60, 600, 3600, 36000}),
		End: newCounterVec(set, "cleversocks_relay_end_total", "cause", causes...),
	}
}
