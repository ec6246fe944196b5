package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/conn/dial"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
	"cleversocks/metrics/admin"
	"cleversocks/resolver"
	"cleversocks/supervisor/config"
)

// Question is what `cleversocks explain` asks: may this user, from there,
// reach that?
type Question struct {
	User    string // "": one who gave no name
	From    string // an address; "": 127.0.0.1
	To      string // HOST:PORT
	Command string // connect, udp or bind; "": connect
	// Listener is the name of the one that the client comes to; "": none in
	// particular.
	Listener string
}

// Check says what is wrong with the question itself.
func (q Question) Check() error {
	_, _, err := q.query()
	return err
}

// Values are the question as the API takes it.
func (q Question) Values() url.Values {
	return url.Values{"user": {q.User}, "from": {q.From}, "to": {q.To}, "command": {q.Command}, "listener": {q.Listener}}
}

// questionOf reads the question of an API request.
func questionOf(v url.Values) Question {
	return Question{User: v.Get("user"), From: v.Get("from"), To: v.Get("to"), Command: v.Get("command"), Listener: v.Get("listener")}
}

// lookup finds the addresses of a name, as resolver.Resolver does.
type lookup func(ctx context.Context, name string, family resolver.Family) ([]netip.Addr, error)

// Explain answers from settings, without a running daemon. Names are resolved
// as the settings say.
func Explain(ctx context.Context, cfg *config.Config, q Question) (admin.Explanation, error) {
	e, end, err := newExplainer(ctx, cfg)
	if err != nil {
		return admin.Explanation{}, err
	}
	defer end()
	return e.judge(ctx, q)
}

// newExplainer answers questions from settings. The caller ends it.
func newExplainer(ctx context.Context, cfg *config.Config) (_ explainer, end func(), err error) {
	log, m := slog.New(slog.DiscardHandler), metrics.New()
	names, err := resolver.New(ctx, resolverOptions(cfg, log, m))
	if err != nil {
		return explainer{}, nil, err
	}
	pools := relay.NewPools(relay.PoolOptions{})
	end = func() { names.Close(); pools.Close() }
	locals, err := newLocals(ctx, log)
	if err != nil {
		end()
		return explainer{}, nil, err
	}
	parts := []part{
		&accounts{log: log, metrics: m, guards: newGuards(ctx, withoutState(cfg), log, m, false)},
		&rules{log: log, metrics: m, locals: locals},
		&outbound{log: log, metrics: m, resolver: names, history: dial.NewHistory(1), pools: pools},
		&routes{log: log, metrics: m, policy: func() *conn.Policy { return nil }},
	}
	// What is prepared is the policy; it is never put in force.
	d := &draft{cfg: cfg, own: listening(cfg), policy: &conn.Policy{Listeners: make(map[string]conn.Listener)}}
	for _, l := range cfg.Listeners {
		d.policy.Listeners[l.Called()] = listenerPolicy(l)
	}
	changes, err := prepare(ctx, parts, d, nil)
	if err != nil {
		end()
		return explainer{}, nil, err
	}
	rollback(ctx, changes, nil)
	return explainer{policy: d.policy, look: names.Lookup}, end, nil
}

// withoutState is the settings for a look that must not touch saved state.
func withoutState(cfg *config.Config) *config.Config {
	c := *cfg
	c.State.Directory = ""
	return &c
}

// listening is what the settings have this daemon listen on.
func listening(cfg *config.Config) []netip.AddrPort {
	var own []netip.AddrPort
	for _, l := range cfg.Listeners {
		if l.Address.AddrPort.IsValid() {
			own = append(own, l.Address.AddrPort)
		}
	}
	if cfg.Admin.Address.AddrPort.IsValid() {
		own = append(own, cfg.Admin.Address.AddrPort)
	}
	return own
}

// explainer answers questions by a policy.
type explainer struct {
	policy *conn.Policy
	look   lookup
	bans   func() []authsvc.Ban    // nil: unknown, without a running daemon
	known  map[string][]netip.Addr // names that are not looked up
}

// explain says what the policy decides, about each address that the target
// has now.
func (e explainer) explain(ctx context.Context, ask Question) (string, error) {
	p := e.policy
	q, dest, err := ask.query()
	if err != nil {
		return "", err
	}
	var head strings.Builder
	if err := e.explainEntrance(ask, &q, &head); err != nil {
		return "", err
	}
	if ask.User != "" {
		q.Identity = e.named(ask.User, q.Source, &head)
	}
	if refusal := p.Auth.Lapsed(q.Identity); refusal != nil {
		fmt.Fprintf(&head, "user %q may not log in: %s\n", q.Identity.User, refusal.Reason)
	}
	for _, line := range p.Auth.Describe() {
		fmt.Fprintln(&head, line)
	}
	addrs := []netip.Addr{dest.IP}
	if dest.IsName() {
		addrs = nil
		full, denied := e.explainSearch(ctx, q, dest, &head)
		if denied {
			return head.String(), nil
		}
		if full.Name != dest.Name {
			q.Asked = dest.Name
		}
		dest, q.Name = full, full.Name
	}
	route := p.Routes.Route(upstream.Query{
		Dest: dest, User: q.Identity.User, Groups: q.Identity.Groups, Source: q.Source, Listener: q.Listener,
	})
	explainRoute(route, dest, &head)
	switch {
	case route.Action == upstream.Reject:
		return head.String() + "result: deny, by " + route.Rule + "\n", nil
	case route.Action == upstream.Via && dest.IsName() && !route.ResolvesLocally():
		return head.String() + p.ACL.ExplainName(&q), nil
	}
	if dest.IsName() {
		if d, certain := p.ACL.DecideName(&q); !certain || d.Allow {
			addrs = e.resolveAll(ctx, dest.Name, &head)
		}
	}
	return head.String() + p.ACL.Explain(&q, addrs), nil
}

// explainSearch is the destination with the name that answers for it, where the
// system's search list makes several of the one asked for. It says what is tried
// and what the rules and forwarding rules say to each; denied: nothing was left.
func (e explainer) explainSearch(ctx context.Context, q aclsvc.Query, dest wire.Addr, say *strings.Builder) (full wire.Addr, denied bool) {
	p := e.policy
	if _, ok := e.known[dest.Name]; ok {
		return dest, false
	}
	if !p.Dialer.Searches(dest) || p.ResolvedElsewhere(q, dest) {
		return dest, false
	}
	fmt.Fprintf(say, "%s is no complete name: the search list of resolv.conf applies, and the rules judge the name that answers (a final dot turns that off)\n", dest.Name)
	if err := p.JudgeAsked(q); err != nil {
		fmt.Fprintf(say, "  name %s, as it was asked for: %v\nresult: deny, before DNS is asked\n", dest.Name, err)
		return dest, true
	}
	refused := false
	full, err := p.Dialer.Complete(ctx, dest, dial.Egress{}, func(name string) error {
		err := p.JudgeSearched(q, name)
		if err != nil {
			fmt.Fprintf(say, "  tries %s: %v, not asked for\n", name, err)
			refused = true
			return err
		}
		fmt.Fprintf(say, "  tries %s\n", name)
		return nil
	})
	switch {
	case err == nil:
		fmt.Fprintf(say, "  %s is the name that answers\n", full.Name)
	case refused:
		say.WriteString("result: deny, no other name of the list answers\n")
	default:
		fmt.Fprintf(say, "  %v\nresult: no address to judge\n", err)
	}
	return full, err != nil
}

// resolveAll is a name's addresses of both families. What goes wrong is said.
func (e explainer) resolveAll(ctx context.Context, name string, say *strings.Builder) []netip.Addr {
	if known, ok := e.known[name]; ok {
		return known
	}
	var addrs []netip.Addr
	for _, family := range []resolver.Family{resolver.IPv6, resolver.IPv4} {
		found, err := e.look(ctx, name, family)
		if err != nil {
			fmt.Fprintf(say, "%s, %s: %v\n", name, family, err)
		}
		addrs = append(addrs, found...)
	}
	return addrs
}

// query reads the question. Its errors name the part that is wrong.
func (q Question) query() (aclsvc.Query, wire.Addr, error) {
	none := wire.Addr{}
	from := q.From
	if from == "" {
		from = "127.0.0.1"
	}
	source, err := netip.ParseAddr(from)
	if err != nil {
		return aclsvc.Query{}, none, fmt.Errorf("from: %q is not an IP address", from)
	}
	host, port, err := netaddr.SplitHostPort(q.To)
	if err != nil {
		return aclsvc.Query{}, none, fmt.Errorf("to: %w", err)
	}
	dest, err := wire.ParseHost(host, port)
	if err != nil {
		return aclsvc.Query{}, none, fmt.Errorf("to: %w", err)
	}
	commands := map[string]wire.Command{"": wire.CommandConnect, "connect": wire.CommandConnect, "bind": wire.CommandBind, "udp": wire.CommandUDPAssociate}
	command, ok := commands[q.Command]
	if !ok {
		return aclsvc.Query{}, none, fmt.Errorf("command: %q is not connect, udp or bind", q.Command)
	}
	if port == 0 && command != wire.CommandBind {
		return aclsvc.Query{}, none, errors.New("to: nothing goes to port 0; only a bind may leave its peer's port open")
	}
	return aclsvc.Query{
		Identity: authsvc.Identity{Method: authsvc.MethodNone}, Source: netaddr.Plain(source),
		Command: command, Name: dest.Name, Port: dest.Port, Listener: q.Listener,
	}, dest, nil
}

// Hash is a password's hash, as a users file has it.
func Hash(password []byte) string { return authsvc.Hash(password) }

// HashPassword asks for a password, on prompt when in is a terminal, and
// writes its hash for a users file, as a line.
func HashPassword(in *os.File, prompt, out io.Writer) error {
	hash, err := ReadHash(in, prompt)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, hash+"\n")
	return err
}

// ReadHash asks for a password as HashPassword does, and returns its hash.
func ReadHash(in *os.File, prompt io.Writer) (string, error) {
	password, err := authsvc.ReadPassword(in, prompt)
	if err != nil {
		return "", err
	}
	defer clear(password)
	return authsvc.Hash(password), nil
}

// HashOf is the hash of a password that is fit to be one.
func HashOf(password []byte) (string, error) {
	if err := authsvc.CheckPassword(password); err != nil {
		return "", err
	}
	return authsvc.Hash(password), nil
}

// SplitUserLine takes a line of a users file apart. secret is a hash or a password.
func SplitUserLine(line string) (name, secret string, disabled bool, attributes string, ok bool) {
	return authsvc.SplitUserLine(line)
}

// IsPasswordHash reports whether a secret is, or claims to be, a hash.
func IsPasswordHash(secret string) bool { return authsvc.IsHash([]byte(secret)) }

// AskPassword asks for a password that is there already, once.
func AskPassword(in *os.File, prompt io.Writer) (string, error) {
	password, err := authsvc.AskPassword(in, prompt)
	return string(password), err
}
