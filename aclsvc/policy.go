package aclsvc

import (
	"net/netip"
	"strings"

	"cleversocks/conn/netaddr"
)

// Decide judges a request for one resolved address; q.Name is the name it was
// resolved from, if any. Rules are taken in order, and the first that matches
// decides. A private address, or one of this host's, under block_private can
// only be allowed by a rule whose "to" names it by CIDR, so for it the rules that allow a name, or
// anything, are passed over. An address that carries an IPv4 address (NAT64,
// 6to4) is judged by that one; a denial may name either.
func (p *Policy) Decide(q *Query, addr netip.Addr) (d Decision) {
	defer p.denyOnPanic(q, &d)
	if !addr.IsValid() {
		return Decision{Rule: ByBadAddress}
	}
	t := p.target(addr, q.Listener)
	if p.isOwn(t.inner, q.Port) || t.bits != 0 && p.isOwn(t.outer, q.Port) {
		return Decision{Rule: ByOwnListener}
	}
	return p.report(p.byRules(p.first(q, &t), &t))
}

// DecideName judges by the name alone, before DNS is asked; with an upstream
// that resolves, it is the last word. certain: the denial holds whatever the
// name resolves to. A query without a name is for Decide: it is allowed here,
// and not certain.
func (p *Policy) DecideName(q *Query) (d Decision, certain bool) {
	defer func() {
		if d.Rule == ByPanic {
			certain = true
		}
	}()
	defer p.denyOnPanic(q, &d)
	if q.Name == "" {
		return Decision{Allow: true, Rule: ByDefault}, false
	}
	if addr, ok := literal(q.Name); ok {
		d = p.Decide(q, addr)
		return d, !d.Allow
	}
	best := p.scan(p.index.any, len(p.rules), q, false)
	best = p.byName(q, best, false)
	d = p.byRules(best, &target{})
	if !d.Allow && !p.reportOnly {
		certain = p.scan(p.index.addrAllows, best, q, false) == best
	}
	return p.report(d), certain
}

// DecideNamed judges a name by the rules that name it, and reports whether one
// of them decides. It is for a name that stands for others (a search list makes
// "wiki.corp.example" of "wiki"): those are judged by Decide, while a denial of
// the name as it was asked for holds as well.
func (p *Policy) DecideNamed(q *Query) (d Decision, named bool) {
	defer p.denyOnPanic(q, &d)
	if q.Name == "" {
		return Decision{Allow: true, Rule: ByDefault}, false
	}
	best := p.byName(q, len(p.rules), false)
	if best == len(p.rules) || p.scan(p.index.any, best, q, false) != best {
		return Decision{Allow: true, Rule: ByDefault}, false
	}
	return p.report(p.byRules(best, &target{})), true
}

// DecideUnknown judges a request whose destination is not known yet: a UDP
// association, or a BIND for anybody. It denies what the rules deny wherever
// it would go; anything else is allowed here, to be judged once the
// destination is known. The query's name and port are not looked at.
func (p *Policy) DecideUnknown(q *Query) (d Decision) {
	defer p.denyOnPanic(q, &d)
	for i := range p.rules {
		r := &p.rules[i]
		if !r.concernsClient(q) {
			continue
		}
		if r.allow {
			return Decision{Allow: true, Rule: r.name, Where: r.where}
		}
		if r.anywhere && len(r.ports) == 0 {
			return p.report(Decision{Rule: r.name, Where: r.where})
		}
	}
	return p.report(p.fallback)
}

// target is an address on its way through the rules.
type target struct {
	outer   netip.Addr // as it would be dialed, unmapped
	inner   netip.Addr // where it ends up: the IPv4 address carried, or outer
	bits    int        // length of the prefix that carries; 0: nothing is carried
	blocked bool       // private or this host's, and block_private is on
}

func (p *Policy) target(addr netip.Addr, listener string) target {
	outer := netaddr.Plain(addr)
	inner, bits := p.unwrap(outer)
	return target{outer, inner, bits, p.blocksFrom(listener) && p.isBlocked(outer, inner, bits)}
}

// blocksFrom reports whether block_private is in force for a listener.
func (p *Policy) blocksFrom(listener string) bool {
	if blocks, ok := p.blocksAt[listener]; ok {
		return blocks
	}
	return p.blocks
}

// isBlocked reports whether block_private denies an address: it is no host on
// the internet, or it is one of this host's, whose services may be kept from
// the outside by a firewall that sees us as an insider.
func (p *Policy) isBlocked(outer, inner netip.Addr, bits int) bool {
	// In front of what ISATAP carries stands any prefix, a private one too.
	if bits != 0 && isISATAP(outer) && p.block.denies(outer) {
		return true
	}
	return p.block.denies(inner) || p.isHost(inner) || bits != 0 && p.isHost(outer)
}

// first is the number of the first rule that matches, or that of no rule.
func (p *Policy) first(q *Query, t *target) int {
	best := p.byAddr(t.inner, len(p.rules), q, 0, false)
	if t.bits != 0 {
		// A denial may name the address in either form. An allowance of
		// ::/0 does not mean the IPv4 hosts behind a translator, one of the
		// translator's prefix does, yet not the private ones among them.
		allowFrom := t.bits
		if t.blocked {
			allowFrom = 129
		}
		best = p.byAddr(t.outer, best, q, allowFrom, true)
	}
	best = p.byName(q, best, t.blocked)
	return p.scan(p.index.any, best, q, t.blocked)
}

// byAddr looks among the rules that name addr by CIDR. Rules of prefixes
// shorter than allowFrom only deny.
func (p *Policy) byAddr(addr netip.Addr, best int, q *Query, allowFrom int, outer bool) int {
	i, ok := p.index.table.Lookup(addr)
	if !ok {
		return best
	}
	for i >= 0 {
		n := &p.index.nodes[i]
		best = p.scan(n.rules, best, q, outer && n.prefix.Bits() < allowFrom)
		i = n.parent
	}
	return best
}

// byName looks among the rules that name q.Name, exactly or by suffix, or
// q.Asked if that is a single label.
func (p *Policy) byName(q *Query, best int, denyOnly bool) int {
	if q.Name == "" {
		return best
	}
	if list, ok := p.index.exact[q.Name]; ok {
		best = p.scan(list, best, q, denyOnly)
	}
	if q.Asked != "" && strings.IndexByte(q.Asked, '.') < 0 {
		best = p.scan(p.index.exact[q.Asked], best, q, denyOnly)
	}
	// From the right, so that a name of a hundred labels costs no more than
	// the longest suffix.
	end := len(q.Name)
	for range p.index.depth {
		dot := strings.LastIndexByte(q.Name[:end], '.')
		if dot < 0 {
			break
		}
		if list, ok := p.index.below[q.Name[dot+1:]]; ok {
			best = p.scan(list, best, q, denyOnly)
		}
		end = dot
	}
	return best
}

// scan is the first rule of an ascending list that is before best and
// concerns q, or best.
func (p *Policy) scan(list []int32, best int, q *Query, denyOnly bool) int {
	for _, n := range list {
		if int(n) >= best {
			break
		}
		if r := &p.rules[n]; (!denyOnly || !r.allow) && r.concerns(q) {
			return int(n)
		}
	}
	return best
}

// byRules is the decision once the first matching rule is known.
func (p *Policy) byRules(n int, t *target) Decision {
	switch {
	case n < len(p.rules):
		r := &p.rules[n]
		return Decision{Allow: r.allow, Rule: r.name, Where: r.where}
	case t.blocked:
		return Decision{Rule: ByBlockPrivate}
	}
	return p.fallback
}

// report turns a denial into a reported one in report-only mode.
func (p *Policy) report(d Decision) Decision {
	if !d.Allow && p.reportOnly {
		d.Allow, d.Reported = true, true
	}
	return d
}

// denyOnPanic is deferred by every decision: a decision that cannot be taken
// is a denial.
func (p *Policy) denyOnPanic(q *Query, d *Decision) {
	v := recover()
	if v == nil {
		return
	}
	*d = Decision{Rule: ByPanic}
	if p.onPanic != nil && q != nil {
		p.onPanic(v, *q)
	}
}

// literal reads an address in name form. Names that end in a number are
// refused before (wire.NormalizeName), so most names are told by one byte.
func literal(name string) (netip.Addr, bool) {
	last := name[len(name)-1]
	if (last < '0' || last > '9') && strings.IndexByte(name, ':') < 0 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return a, err == nil
}

// Rules is the number of rules.
func (p *Policy) Rules() int { return len(p.rules) }

// Deciders are all values of Decision.Rule, the rules last, for the metric's
// labels.
func (p *Policy) Deciders() []string {
	out := []string{ByDefault, ByBlockPrivate, ByOwnListener, ByBadAddress, ByPanic}
	for i := range p.rules {
		out = append(out, p.rules[i].name)
	}
	return out
}

// BlocksPrivate reports whether block_private is in force, for the log.
func (p *Policy) BlocksPrivate() bool { return p.blocks }
