package metrics

import (
	"slices"
	"sync"

	vm "github.com/VictoriaMetrics/metrics"
)

// ACL counts decisions.
type ACL struct {
	set   *vm.Set
	full  *Counter // configurations with more rules than labels
	mu    *sync.Mutex
	rules map[string]bool // those with series
}

// What a decision did, as the label "action".
const (
	ActionAllow  = "allow"
	ActionDeny   = "deny"
	ActionReport = "report" // report_only: allowed, and would be denied
)

var actions = []string{ActionAllow, ActionDeny, ActionReport, "other"}

// MaxRuleSeries bounds the label "rule": later rules count as "other".
const MaxRuleSeries = 200

func newACL(set *vm.Set, limits CounterVec) ACL {
	return ACL{set: set, full: limits.Of(LimitRuleSeries), mu: new(sync.Mutex), rules: make(map[string]bool)}
}

// Decisions are the counters of one configuration by action and rule. Call it
// once for each, with the names of what can decide; the counts of a name go on
// over a reload.
func (a ACL) Decisions(rules []string) CounterVec2 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(rules) > MaxRuleSeries {
		a.full.Inc()
	}
	v := CounterVec2{counters: map[[2]string]*Counter{}}
	for _, rule := range labelled(rules) {
		a.rules[rule] = true
		for _, action := range actions {
			v.counters[[2]string{action, rule}] = a.set.GetOrCreateCounter(decisionSeries(action, rule))
		}
	}
	return v
}

// Retain ends the series of all rules but these, once a configuration is in
// force. A connection under an older one goes on counting where nobody looks.
func (a ACL) Retain(rules []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	keep := labelled(rules)
	for rule := range a.rules {
		if slices.Contains(keep, rule) {
			continue
		}
		for _, action := range actions {
			a.set.UnregisterMetric(decisionSeries(action, rule))
		}
		delete(a.rules, rule)
	}
}

// labelled are the values of the label for these rules.
func labelled(rules []string) []string {
	return append(slices.Clip(rules[:min(len(rules), MaxRuleSeries)]), "other")
}

func decisionSeries(action, rule string) string {
	return series("cleversocks_acl_decisions_total", "action", action, "rule", rule)
}
