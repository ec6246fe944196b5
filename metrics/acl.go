package metrics

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// ACL counts decisions.
type ACL struct{ set *vm.Set }

// What a decision did, as the label "action".
const (
	ActionAllow  = "allow"
	ActionDeny   = "deny"
	ActionReport = "report" // report_only: allowed, and would be denied
)

// maxRules bounds the label "rule": later rules count as "other".
const maxRules = 200

// Decisions are the counters of one configuration by action and rule. Call it
// once for each, with the names of what can decide; the counts of a name go on
// over a reload.
func (a ACL) Decisions(rules []string) CounterVec2 {
	if len(rules) > maxRules {
		rules = rules[:maxRules]
	}
	v := CounterVec2{counters: map[[2]string]*Counter{}}
	for _, action := range []string{ActionAllow, ActionDeny, ActionReport, "other"} {
		for _, rule := range append(slices.Clip(rules), "other") {
			v.counters[[2]string{action, rule}] = a.set.GetOrCreateCounter(
				fmt.Sprintf("cleversocks_acl_decisions_total{action=%q,rule=%q}", action, rule))
		}
	}
	return v
}

// Users counts by user, for as many users as labels are reasonable.
type Users struct {
	mu    sync.Mutex
	set   *vm.Set
	known map[string]*User
	other *User
}

// User is one user's counts.
type User struct {
	BytesIn     *Counter // from the client
	BytesOut    *Counter // to the client
	Connections *Counter
	Active      *atomic.Int64
}

// maxUsers bounds the label "user": who comes later counts as "other".
const maxUsers = 200

func newUsers(set *vm.Set) *Users { return &Users{set: set, known: map[string]*User{}} }

// Of is the counts of a user. Look it up once a connection, and only for
// names that the configuration knows: a name costs a label for ever.
func (u *Users) Of(name string) *User {
	u.mu.Lock()
	defer u.mu.Unlock()
	if user := u.known[name]; user != nil {
		return user
	}
	if len(u.known) < maxUsers {
		user := u.add(name)
		u.known[name] = user
		return user
	}
	if u.other == nil {
		u.other = u.add("other")
	}
	return u.other
}

// add makes or finds the metrics: two names may share a label once what is no
// text is taken out.
func (u *Users) add(name string) *User {
	label := labelValue(name)
	user := &User{
		BytesIn:     u.set.GetOrCreateCounter(`cleversocks_user_bytes_total{direction="in",user="` + label + `"}`),
		BytesOut:    u.set.GetOrCreateCounter(`cleversocks_user_bytes_total{direction="out",user="` + label + `"}`),
		Connections: u.set.GetOrCreateCounter(`cleversocks_user_connections_total{user="` + label + `"}`),
		Active:      new(atomic.Int64),
	}
	u.set.GetOrCreateGauge(`cleversocks_user_connections_active{user="`+label+`"}`, func() float64 { return float64(user.Active.Load()) })
	return user
}

// labelValue is a name as the text format of Prometheus takes it. The quote
// and the backslash become an underscore too, since a name is also searched
// for in a query.
func labelValue(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '"' || r == '\\' || r == '\uFFFD' {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
}
