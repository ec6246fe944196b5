package aclsvc

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Explain says in words what Decide and DecideName say of a request and the
// addresses that its name has now: what each was taken for, the rule with its
// file and line, and the outcome. It ends in a newline.
func (p *Policy) Explain(q *Query, addrs []netip.Addr) string {
	var b strings.Builder
	p.explainClient(q, &b)
	if q.Name != "" {
		d, certain := p.DecideName(q)
		fmt.Fprintf(&b, "  name %s: %s%s\n", q.Name, p.words(d, netip.Addr{}), certainty(d, certain))
		if certain && !d.Allow {
			b.WriteString("result: deny, before DNS is asked\n")
			return b.String()
		}
	}
	allowed := 0
	for _, addr := range addrs {
		d := p.Decide(q, addr)
		if d.Allow {
			allowed++
		}
		fmt.Fprintf(&b, "  address %s%s: %s\n", addr, p.nature(addr, q.Listener), p.words(d, addr))
	}
	switch {
	case len(addrs) == 0:
		b.WriteString("result: no address to judge\n")
	case allowed == 0:
		b.WriteString("result: deny\n")
	default:
		fmt.Fprintf(&b, "result: allow, to %d of %d addresses\n", allowed, len(addrs))
	}
	return b.String()
}

// ExplainName is Explain where an upstream resolves the name: what the rules say
// of that alone is the last word.
func (p *Policy) ExplainName(q *Query) string {
	var b strings.Builder
	d, _ := p.DecideName(q)
	p.explainClient(q, &b)
	fmt.Fprintf(&b, "  name %s: %s\n", q.Name, p.words(d, netip.Addr{}))
	result := "deny"
	if d.Allow {
		result = "allow"
	}
	fmt.Fprintf(&b, "result: %s, by the name alone: the upstream resolves it\n", result)
	return b.String()
}

// explainClient is the line that says whose request it is.
func (p *Policy) explainClient(q *Query, b *strings.Builder) {
	who := "anyone"
	if q.Identity.User != "" {
		who = "user " + strconv.Quote(q.Identity.User)
	}
	if len(q.Identity.Groups) > 0 {
		who += fmt.Sprintf(" (groups %q)", q.Identity.Groups)
	}
	at := ""
	if q.Listener != "" {
		at = " at listener " + q.Listener
	}
	fmt.Fprintf(b, "%s from %s%s: %s port %d\n", who, q.Source, at, q.Command, q.Port)
}

func certainty(d Decision, certain bool) string {
	if certain && !d.Allow {
		return ", whatever it resolves to"
	}
	return "; each address is judged once it is known (an upstream that resolves has only this)"
}

// words is "deny by acl.rules[3] (file:12)". addr is the address that was
// judged, or invalid.
func (p *Policy) words(d Decision, addr netip.Addr) string {
	s := "deny"
	if d.Allow {
		s = "allow"
	}
	if d.Reported {
		s = "would deny (report_only: allow)"
	}
	s += " by " + d.Rule
	switch {
	case d.Where != "":
		s += " (" + d.Where + ")"
	case d.Rule == ByBlockPrivate:
		s += " (" + p.whyBlocked(addr) + "only a rule that allows it by CIDR lifts that)"
	case d.Rule == ByOwnListener:
		s += " (the proxy itself; nothing lifts that)"
	}
	return s
}

// whyBlocked is what the registries call an address that block_private denies.
func (p *Policy) whyBlocked(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	t := p.target(addr, "")
	for _, a := range []netip.Addr{t.inner, t.outer} {
		if p.block.denies(a) {
			return p.block.name(a) + "; "
		}
	}
	return "an address of this host; "
}

// nature says what an address was taken for.
func (p *Policy) nature(addr netip.Addr, listener string) string {
	t := p.target(addr, listener)
	var notes []string
	if t.inner != addr {
		notes = append(notes, "is "+t.inner.String())
	}
	if t.blocked {
		notes = append(notes, "private")
	}
	if prefix, ok := p.longest(t.inner); ok {
		notes = append(notes, "listed as "+prefix.String())
	}
	if len(notes) == 0 {
		return ""
	}
	return " (" + strings.Join(notes, ", ") + ")"
}

// longest is the longest prefix of all rules that holds addr.
func (p *Policy) longest(addr netip.Addr) (netip.Prefix, bool) {
	i, ok := p.index.table.Lookup(addr)
	if !ok {
		return netip.Prefix{}, false
	}
	return p.index.nodes[i].prefix, true
}
