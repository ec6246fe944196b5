package supervisor

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/supervisor/config"
)

// explainEntrance says what a client meets before its request is judged: a ban,
// a listener that is not for it, a log-in that is needed.
func (e explainer) explainEntrance(ask Question, q *aclsvc.Query, say *strings.Builder) error {
	if e.bans != nil {
		for _, b := range e.bans() {
			if b.Source.Contains(q.Source) && time.Now().Before(b.Until) {
				fmt.Fprintf(say, "%s is banned until %s: its connections are closed at accept\n", netaddr.SourceText(b.Source), b.Until.Format(time.RFC3339))
			}
		}
	}
	p := e.policy
	door, known := p.Listeners[ask.Listener]
	if ask.Listener != "" && !known {
		return fmt.Errorf("%w: --listener: there is none called %q; there are %q", config.ErrInvalid, ask.Listener, slices.Sorted(maps.Keys(p.Listeners)))
	}
	if known {
		fmt.Fprintf(say, "listener %s: %s\n", ask.Listener, door.Speaks())
	}
	if door.Allows != nil && !door.Allows(q.Source) {
		fmt.Fprintf(say, "listener %s is not for %s (allow_from): the connection is reset at accept\n", ask.Listener, q.Source)
	}
	id, free := p.Auth.Free(q.Source)
	switch {
	case ask.User != "":
		id = e.named(ask.User, q.Source, new(strings.Builder))
		if door.MayLogIn != nil && !door.MayLogIn(id) {
			fmt.Fprintf(say, "listener %s is not for user %q: the log-in is refused\n", ask.Listener, ask.User)
		}
	case door.MayLogIn != nil && !door.MayLogIn(id):
		fmt.Fprintf(say, "authentication: needed at listener %s, whatever the address; this client gives no name\n", ask.Listener)
	case !free:
		say.WriteString("authentication: needed; this client gives no name and is refused\n")
	case id.User != "":
		fmt.Fprintf(say, "authentication: not needed, as user %q logged in from there (auth-once)\n", id.User)
		q.Identity = id
	case id.Method == authsvc.MethodWhitelist:
		say.WriteString("authentication: not needed from there (no_password_from)\n")
	default:
		say.WriteString("authentication: not needed\n")
	}
	return nil
}

// named is whom a client is that gives a name: a user of the settings, one whom
// Kerberos or a certificate vouches for, or the one that a principal is mapped
// to. It says which, if it is not the first.
func (e explainer) named(name string, source netip.Addr, say *strings.Builder) authsvc.Identity {
	holds := func(user string, m authsvc.Method) (authsvc.Identity, bool) {
		id, err := e.policy.Auth.Holds(authsvc.Identity{User: user, Method: m}, source)
		return id, err == nil
	}
	if id, ok := holds(name, authsvc.MethodPassword); ok {
		return id
	}
	user, isPrincipal := e.policy.Auth.UserOf(name)
	if !isPrincipal {
		user = name
	}
	if id, ok := holds(user, authsvc.MethodGSSAPI); ok {
		if isPrincipal {
			fmt.Fprintf(say, "principal %s is user %q, by auth.gssapi\n", name, user)
		}
		if id.Account == nil {
			fmt.Fprintf(say, "user %q is in no list of users: a ticket of Kerberos lets this client in, no password does; groups may come with the ticket\n", user)
		}
		return id
	}
	if id, ok := holds(name, authsvc.MethodCertificate); ok {
		fmt.Fprintf(say, "user %q is in no list of users: a certificate lets this client in, no password does\n", name)
		return id
	}
	fmt.Fprintf(say, "user %q is unknown, or may not come from %s: no password lets this client in\n", user, source)
	return authsvc.Identity{User: user, Method: authsvc.MethodPassword}
}

// explainRoute says where the forwarding rules send a request.
func explainRoute(route upstream.Route, dest wire.Addr, say *strings.Builder) {
	if route.Rule == "" {
		return // straight there, as everybody expects
	}
	switch route.Action {
	case upstream.Reject:
		fmt.Fprintf(say, "forward: %s rejects it\n", route.Rule)
	case upstream.Via:
		who := "; the upstream resolves the name"
		if !dest.IsName() {
			who = ""
		} else if route.ResolvesLocally() {
			who = "; the name is resolved here"
		}
		fmt.Fprintf(say, "forward: %s sends it through the upstream %q%s\n", route.Rule, route.Upstream(), who)
	case upstream.Direct:
		fmt.Fprintf(say, "forward: %s sends it straight there\n", route.Rule)
	}
	if route.Dest.Host() != dest.Host() || route.Dest.Port != dest.Port {
		fmt.Fprintf(say, "  asks for %s instead, which the rules judge too\n", route.Dest)
	}
}
