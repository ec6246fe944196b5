package metrics

import (
	"slices"

	vm "github.com/VictoriaMetrics/metrics"
)

// Counter is a value that only grows.
type Counter = vm.Counter

// CounterVec is one counter per value of a label. The values are fixed when
// it is made, so counting never formats a name and cardinality is bounded:
// a value that nobody foresaw counts as "other".
type CounterVec struct {
	counters map[string]*Counter
}

func newCounterVec(set *vm.Set, name, label string, values ...string) CounterVec {
	v := CounterVec{counters: make(map[string]*Counter, len(values)+1)}
	for _, value := range append(slices.Clip(values), "other") {
		v.counters[value] = set.NewCounter(series(name, label, value))
	}
	return v
}

// Of is the counter for a value of the label.
func (v CounterVec) Of(value string) *Counter {
	if c := v.counters[value]; c != nil {
		return c
	}
	return v.counters["other"]
}

// Each calls f with every value of the label that has counted.
func (v CounterVec) Each(f func(value string, n uint64)) {
	for value, c := range v.counters {
		if n := c.Get(); n > 0 {
			f(value, n)
		}
	}
}

// CounterVec2 is a CounterVec with two labels; every combination of the values
// given here has its counter from the start.
type CounterVec2 struct {
	counters map[[2]string]*Counter
}

func newCounterVec2(set *vm.Set, name string, labels [2]string, first, second []string) CounterVec2 {
	v := CounterVec2{counters: make(map[[2]string]*Counter, (len(first)+1)*(len(second)+1))}
	for _, a := range append(slices.Clip(first), "other") {
		for _, b := range append(slices.Clip(second), "other") {
			v.counters[[2]string{a, b}] = set.NewCounter(series(name, labels[0], a, labels[1], b))
		}
	}
	return v
}

// Of is the counter for a pair of label values.
func (v CounterVec2) Of(a, b string) *Counter {
	if c := v.counters[[2]string{a, b}]; c != nil {
		return c
	}
	if c := v.counters[[2]string{a, "other"}]; c != nil {
		return c
	}
	if c := v.counters[[2]string{"other", b}]; c != nil {
		return c
	}
	return v.counters[[2]string{"other", "other"}]
}
