package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
)

// The outcomes of an explanation.
const (
	resultAllow      = "allow"
	resultDeny       = "deny"
	resultUnresolved = "unresolved" // there is no address to judge
)

// The stages at which a client may be refused, in their order.
const (
	stageAccept  = "accept"
	stageLogin   = "login"
	stageRequest = "request"
)

// verdict is an explanation in the making. What refuses first is the outcome,
// whatever comes after it says.
type verdict struct{ admin.Explanation }

func (v *verdict) refuse(stage, by, where string) {
	if v.Result == "" {
		v.Result, v.Stage, v.By, v.Where = resultDeny, stage, by, where
	}
}

// judge is what a client meets, from its connection to the rules: in words, and
// as programs like it.
func (e explainer) judge(ctx context.Context, ask Question) (admin.Explanation, error) {
	text, err := e.explain(ctx, ask)
	if err != nil {
		return admin.Explanation{}, err
	}
	q, dest, err := ask.query()
	if err != nil {
		return admin.Explanation{}, err
	}
	v := &verdict{admin.Explanation{User: ask.User, From: q.Source.String(), To: dest.String(), Command: q.Command.String(), Listener: ask.Listener}}
	e.judgeAccept(v, &q)
	e.judgeLogin(v, &q, ask.User)
	v.Groups = q.Identity.Groups
	inRules := v.Result == ""
	e.judgeRequest(ctx, v, q, dest)
	if !inRules {
		text += fmt.Sprintf("in all: deny, at the %s already, by %s\n", v.Stage, v.By)
	}
	v.Text = text
	return v.Explanation, nil
}

// judgeAccept is what happens before a byte is read.
func (e explainer) judgeAccept(v *verdict, q *aclsvc.Query) {
	if e.bans != nil && slices.ContainsFunc(e.bans(), func(b authsvc.Ban) bool { return b.Source.Contains(q.Source) && time.Now().Before(b.Until) }) {
		v.refuse(stageAccept, "ban", "")
	}
	if door := e.policy.Listeners[v.Listener]; door.Allows != nil && !door.Allows(q.Source) {
		v.refuse(stageAccept, "allow_from", "")
	}
}

// judgeLogin is who the client is, and whether it may be.
func (e explainer) judgeLogin(v *verdict, q *aclsvc.Query, user string) {
	p := e.policy
	door := p.Listeners[v.Listener]
	id, free := p.Auth.Free(q.Source)
	if user != "" {
		id, free = e.named(user, q.Source, new(strings.Builder)), true
		refusal := p.Auth.Lapsed(id)
		switch {
		case refusal != nil:
			v.refuse(stageLogin, string(refusal.Reason), "")
		case id.Account == nil && id.Method == authsvc.MethodPassword:
			v.refuse(stageLogin, "user", "")
		}
		if id.Account != nil {
			v.UserWhere = id.Account.Where
		}
	}
	v.Authentication = string(id.Method)
	switch {
	case !free:
		v.Authentication = "needed"
		v.refuse(stageLogin, "authentication", "")
	case door.MayLogIn != nil && !door.MayLogIn(id):
		v.refuse(stageLogin, "listener", "")
	}
	if user != "" || id.User != "" {
		q.Identity = id
	}
}

// judgeRequest is what the forwarding rules and the rules say.
func (e explainer) judgeRequest(ctx context.Context, v *verdict, q aclsvc.Query, dest wire.Addr) {
	p := e.policy
	if dest.IsName() {
		full, denied := e.explainSearch(ctx, q, dest, new(strings.Builder))
		if denied {
			v.refuse(stageRequest, "name", "")
			return
		}
		if full.Name != dest.Name {
			q.Asked, v.Complete = dest.Name, full.Name
		}
		dest, q.Name = full, full.Name
	}
	route := p.Routes.Route(upstream.Query{Dest: dest, User: q.Identity.User, Groups: q.Identity.Groups, Source: q.Source, Listener: q.Listener})
	if route.Rule != "" {
		v.Forward = &admin.ExplainedForward{Rule: route.Rule, Upstream: route.Upstream(), Target: route.Dest.String(), Action: "direct"}
		switch route.Action {
		case upstream.Reject:
			v.Forward.Action = "reject"
			v.refuse(stageRequest, route.Rule, "")
			return
		case upstream.Via:
			v.Forward.Action = "upstream"
		case upstream.Direct:
		}
	}
	addrs := []netip.Addr{dest.IP}
	if dest.IsName() {
		d, certain := p.ACL.DecideName(&q)
		v.Name = judgement(dest.Name, d)
		byName := route.Action == upstream.Via && !route.ResolvesLocally()
		if byName || certain && !d.Allow {
			v.conclude(d)
			return
		}
		addrs = e.resolveAll(ctx, dest.Name, new(strings.Builder))
	}
	var last aclsvc.Decision
	for _, addr := range addrs {
		d := p.ACL.Decide(&q, addr)
		v.Addresses = append(v.Addresses, *judgement(addr.String(), d))
		if !last.Allow {
			last = d
		}
	}
	switch {
	case len(addrs) > 0:
		v.conclude(last)
	case v.Result == "":
		v.Result, v.Stage, v.By = resultUnresolved, stageRequest, "resolver"
	}
}

// conclude takes a decision of the rules as the outcome.
func (v *verdict) conclude(d aclsvc.Decision) {
	if !d.Allow {
		v.refuse(stageRequest, d.Rule, d.Where)
	} else if v.Result == "" {
		v.Result, v.Stage, v.By, v.Where = resultAllow, stageRequest, d.Rule, d.Where
	}
}

func judgement(what string, d aclsvc.Decision) *admin.Judgement {
	return &admin.Judgement{What: what, Allow: d.Allow, Reported: d.Reported, Rule: d.Rule, Where: d.Where}
}

// CaseOutcome is what became of an expected decision.
type CaseOutcome struct {
	config.RuleCase
	Got admin.Explanation
}

// Wrong is what is not as it was expected; "" when all is.
func (o *CaseOutcome) Wrong() string {
	got := o.Got.Result + " by " + o.Got.By
	if o.Got.Where != "" {
		got += " (" + o.Got.Where + ")"
	}
	switch {
	case o.Got.Result != o.Expect && o.Rule != "":
		return fmt.Sprintf("%s, where %s by %s is expected", got, o.Expect, o.Rule)
	case o.Got.Result != o.Expect:
		return fmt.Sprintf("%s, where %s is expected", got, o.Expect)
	case o.Rule != "" && o.Got.By != o.Rule && o.Got.Where != o.Rule:
		return fmt.Sprintf("%s, where %s is expected", got, o.Rule)
	}
	return ""
}

// QuestionOf is a case as a question.
func QuestionOf(c *config.RuleCase) Question {
	return Question{User: c.User, From: c.From, To: c.To, Command: c.Command, Listener: c.Listener}
}

// JudgeCases asks settings, without a running daemon, for the decisions that a
// file expects. Names that the file knows are not resolved.
func JudgeCases(ctx context.Context, cfg *config.Config, file *config.RuleCases) ([]CaseOutcome, error) {
	e, end, err := newExplainer(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer end()
	e.known = file.Names
	outcomes := make([]CaseOutcome, 0, len(file.Cases))
	for _, c := range file.Cases {
		got, err := e.judge(ctx, QuestionOf(&c))
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", config.ErrInvalid, c.Where, err)
		}
		outcomes = append(outcomes, CaseOutcome{c, got})
	}
	return outcomes, nil
}
