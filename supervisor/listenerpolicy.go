package supervisor

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/conn/dial"
	"cleversocks/conn/wire"
	"cleversocks/listener/transparent"
	"cleversocks/supervisor/config"
)

// listenerPolicy is what a listener's settings mean to its connections.
func listenerPolicy(l config.Listener) conn.Listener {
	policy := conn.Listener{
		Advertise: l.Advertise.Addr, SameEgress: l.SameEgress(), Egress: dial.Egress{Addresses: l.EgressRanges()},
		MayLogIn: named(l.Users, l.Groups), Auth: l.Kinds(), AuthFrom: l.KindsFrom(), Protection: l.Protection, Transparent: transparentMode(l),
		SNI: map[string]conn.SNI{"log": conn.SNILog, "match": conn.SNIMatch}[l.SNI],
	}
	if allowed := config.Prefixes(l.AllowFrom); len(allowed) > 0 {
		policy.Allows = authsvc.NewWhitelist(allowed).Contains
	}
	for _, p := range l.Protocols {
		policy.Protocols = append(policy.Protocols, wire.Protocol(p))
	}
	return policy
}

// transparentMode is how connections come to a listener.
func transparentMode(l config.Listener) transparent.Mode {
	switch l.Transparent {
	case "redirect":
		return transparent.Redirect
	case "tproxy":
		return transparent.TPROXY
	}
	return transparent.Off
}

// named reports who is named, by user or group; nil where nobody is.
func named(users, groups []string) func(authsvc.Identity) bool {
	if len(users)+len(groups) == 0 {
		return nil
	}
	return func(id authsvc.Identity) bool {
		return id.User != "" && slices.Contains(users, id.User) ||
			slices.ContainsFunc(id.Groups, func(g string) bool { return slices.Contains(groups, g) })
	}
}

// newPolicies are the listeners of the change by name. Those that it closes are
// among them: what they have accepted is still served.
func (c *socketChange) newPolicies() map[string]conn.Listener {
	all := make(map[string]conn.Listener, len(c.next))
	for _, r := range c.of.open {
		all[r.Name()] = r.policy
	}
	for key, r := range c.next {
		all[r.Name()] = listenerPolicy(c.settings[key])
	}
	return all
}

// announceListener says where a listener is and what it speaks.
func (c *socketChange) announceListener(ctx context.Context, key listenerKey) {
	var names []string
	for _, p := range c.settings[key].Protocols {
		names = append(names, string(p))
	}
	attrs := []slog.Attr{slog.String("address", c.next[key].Address()), slog.String("protocols", strings.Join(names, ","))}
	if key.name != "" {
		attrs = append(attrs, slog.String("name", key.name))
	}
	if key.systemd() {
		attrs = append(attrs, slog.Any("sockets", c.next[key].Addrs()))
	}
	c.of.log.LogAttrs(ctx, slog.LevelInfo, "proxy listens", attrs...)
}
