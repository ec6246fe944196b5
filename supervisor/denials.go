package supervisor

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/conn"
	"cleversocks/conn/wire"
	"cleversocks/metrics/admin"
)

// maxDenials is how many of the latest denials are kept.
const maxDenials = 200

// denialKey is what makes two denials one line for a person. One client that
// tries again and again must not push those of others out of the list.
type denialKey struct {
	user, client, command, target, rule string
	reported                            bool
}

// denials are the latest requests that the rules refused, or would have refused
// but for acl.report_only. The zero value is ready.
type denials struct {
	mu   sync.Mutex
	seen map[denialKey]*admin.Denial
}

// add takes a denial. One that was there before is counted, once for each
// connection.
func (d *denials) add(one admin.Denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := denialKey{user: one.User, client: addressOf(one.Client), command: one.Command, target: one.Target, rule: one.Rule, reported: one.Reported}
	if before := d.seen[key]; before != nil {
		one.Count = before.Count
		if before.ID != one.ID {
			one.Count++
		}
		d.seen[key] = &one
		return
	}
	if d.seen == nil {
		d.seen = make(map[denialKey]*admin.Denial, maxDenials)
	}
	if len(d.seen) >= maxDenials {
		d.forgetOldest()
	}
	one.Count = 1
	d.seen[key] = &one
}

// forgetOldest makes room. The caller holds mu.
func (d *denials) forgetOldest() {
	var oldest denialKey
	var at time.Time
	for key, one := range d.seen {
		if at.IsZero() || one.Time.Before(at) {
			oldest, at = key, one.Time
		}
	}
	delete(d.seen, oldest)
}

// list is the latest first.
func (d *denials) list() []admin.Denial {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]admin.Denial, 0, len(d.seen))
	for _, one := range d.seen {
		out = append(out, *one)
	}
	slices.SortFunc(out, func(a, b admin.Denial) int { return b.Time.Compare(a.Time) })
	return out
}

// addressOf is a client without its port, which is another one each time.
func addressOf(client string) string {
	if i := strings.LastIndexByte(client, ':'); i >= 0 && !strings.HasPrefix(client, "unix:") {
		return strings.Trim(client[:i], "[]")
	}
	return client
}

// denialOf says in words who was refused what by which rule, and which rule
// would allow it.
func denialOf(r *conn.Record, denied *conn.Denial, now time.Time) admin.Denial {
	s := sessionOf(r)
	d := admin.Denial{
		Time: now, ID: s.ID, Client: s.Client, User: s.User, Listener: s.Listener, Command: s.Command, Target: s.Target,
		Rule: s.Rule, Where: denied.Where, Reported: r.Reported != nil,
	}
	if denied.Address.IsValid() {
		d.Address = denied.Address.String()
	}
	who := "a client without a user name"
	if s.User != "" {
		who = "user " + s.User
	}
	by, allow := refusalBy(r, &d)
	if d.Where != "" {
		by += " (" + d.Where + ")"
	}
	may := "may not"
	if d.Reported {
		may, by = "went on to", by+", and acl.report_only let it pass"
	}
	d.Sentence, d.Allow = fmt.Sprintf("%s from %s %s %s to %s: %s", who, addressOf(r.Caller()), may, doing(s.Command), s.Target, by), allow
	return d
}

// doing is a command as a verb.
func doing(command string) string {
	if command == wire.CommandUDPAssociate.String() {
		return "send datagrams"
	}
	return command
}

// refusalBy is what a rule says, in words, and what would let the request through.
func refusalBy(r *conn.Record, d *admin.Denial) (by, allow string) {
	switch {
	case d.Rule == aclsvc.ByDefault:
		return "no rule allows it, and acl.default is deny", allowing(r, d)
	case d.Rule == aclsvc.ByBlockPrivate:
		return "acl.block_private keeps clients from private addresses", allowing(r, d)
	case d.Rule == aclsvc.ByOwnListener:
		return "it is the proxy itself", "# nothing allows the proxy itself as a destination"
	case strings.HasPrefix(d.Rule, "acl."):
		return "rule " + d.Rule + " denies it", allowing(r, d)
	case strings.HasPrefix(d.Rule, "forward"):
		return d.Rule + " rejects it", "# change " + d.Rule + ", or put a [[forward]] with another action before it"
	}
	return "refused by " + d.Rule, "# no rule changes this"
}

// allowing is the rule that would let a refused request through, to be put
// before the one that refused it.
func allowing(r *conn.Record, d *admin.Denial) string {
	var b strings.Builder
	b.WriteString("[[acl.rule]]\naction = \"allow\"\n")
	if d.User != "" {
		fmt.Fprintf(&b, "users = [%q]\n", d.User)
	}
	to := r.Target.Name
	if r.Target.IP.IsValid() {
		to = r.Target.IP.String()
	} else if d.Rule == aclsvc.ByBlockPrivate {
		b.WriteString("# asked for as " + text(to) + ": block_private yields to an address alone\n")
		if to = d.Address; to == "" {
			b.WriteString("# put that of " + text(r.Target.Name) + " here\n")
			to = "192.0.2.1"
		}
	}
	fmt.Fprintf(&b, "to = [%q]\nports = [%d]\n", text(to), r.Target.Port)
	return b.String()
}
