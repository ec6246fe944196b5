package admin

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// operation is one row of the API: the server's paths and the OpenAPI document
// both come from the table, so that they cannot differ.
type operation struct {
	method, path string
	summary      string
	query        []parameter
	body         any  // an example of its type; nil: none
	result       any  // likewise; nil: 204
	changes      bool // it may meet a conflict, or be refused as too much at once
	answer       func(API, call) (any, error)
	// stream answers by itself, in the place of answer.
	stream func(API, http.ResponseWriter, call)
}

type parameter struct{ name, doc string }

var sessionFilter = []parameter{
	{"user", "the user's name"},
	{"client", "the client's address"},
	{"target", "a part of the target"},
	{"listener", "the listener's name"},
}

var questions = []parameter{
	{"to", "the target, HOST:PORT"},
	{"user", "the user's name"},
	{"from", "the client's address"},
	{"command", "connect, udp or bind"},
	{"listener", "the name of the listener that the client comes to"},
}

var operations = []operation{
	{
		method: "GET", path: "/api/v1/status", summary: "The daemon at a glance", result: Status{},
		answer: func(a API, _ call) (any, error) { return a.Status(), nil },
	},
	{
		method: "GET", path: "/api/v1/sessions", summary: "Connections of now", result: SessionPage{},
		query: append([]parameter{
			{"sort", "age (oldest first, the default), bytes or rate (most first)"},
			{"limit", "how many at most"},
			{"offset", "how many to leave out first"},
			{"search", "words, each of which is a part of the user, the client, the target or the listener, in any case"},
		}, sessionFilter...),
		answer: listSessions,
	},
	{
		method: "GET", path: "/api/v1/sessions/{id}", summary: "One connection", result: Session{},
		answer: func(a API, c call) (any, error) {
			all := a.Sessions(c.Context())
			i := slices.IndexFunc(all, func(s Session) bool { return s.ID == c.PathValue("id") })
			if i < 0 {
				return nil, NotFound("there is no such session")
			}
			return all[i], nil
		},
	},
	{
		method: "DELETE", path: "/api/v1/sessions/{id}", summary: "Close one connection", result: Closed{},
		answer: func(a API, c call) (any, error) {
			n := a.CloseSessions(c.Context(), SessionFilter{ID: c.PathValue("id")})
			if n == 0 {
				return nil, NotFound("there is no such session")
			}
			return Closed{n}, nil
		},
	},
	{
		method: "DELETE", path: "/api/v1/sessions", summary: "Close the connections that match, on all replicas; at least one condition is needed", result: Closed{}, query: sessionFilter,
		answer: func(a API, c call) (any, error) {
			if !slices.ContainsFunc(sessionFilter, func(p parameter) bool { return c.query.Get(p.name) != "" }) {
				return nil, BadInput("which ones? give user, client, target or listener")
			}
			return Closed{a.CloseSessions(c.Context(), filterOf(c))}, nil
		},
	},
	{
		method: "GET", path: "/api/v1/fleet", summary: "The replicas that share their state", result: Fleet{},
		answer: func(a API, c call) (any, error) { return a.Fleet(c.Context()), nil },
	},
	{
		method: "GET", path: "/api/v1/explain", summary: "What a request meets, in words", result: plainText(""), query: questions,
		answer: func(a API, c call) (any, error) {
			x, err := a.Explain(c.Context(), c.query)
			if err != nil {
				return nil, BadInput(err.Error())
			}
			return plainText(strings.TrimSuffix(x.Text, "\n")), nil
		},
	},
	{
		method: "GET", path: "/api/v1/decision", summary: "What a request meets, for programs", result: Explanation{}, query: questions,
		answer: func(a API, c call) (any, error) {
			x, err := a.Explain(c.Context(), c.query)
			if err != nil {
				return nil, BadInput(err.Error())
			}
			return x, nil
		},
	},
	{
		method: "GET", path: "/api/v1/whitelist", summary: "Addresses that auth-once lets in", result: []WhitelistEntry{},
		answer: func(a API, _ call) (any, error) { return a.Whitelist(), nil },
	},
	{
		method: "POST", path: "/api/v1/whitelist", summary: "Let an address in, as a user", body: Admission{}, result: WhitelistEntry{},
		answer: func(a API, c call) (any, error) {
			var admission Admission
			if err := c.body(&admission); err != nil {
				return nil, err
			}
			return a.Admit(admission)
		},
	},
	{
		method: "DELETE", path: "/api/v1/whitelist/{address...}", summary: "Take an address out of auth-once",
		answer: func(a API, c call) (any, error) { return nil, removed(a.Revoke(c.PathValue("address"))) },
	},
	{
		method: "GET", path: "/api/v1/bans", summary: "Sources that are kept out", result: []Ban{},
		answer: func(a API, _ call) (any, error) { return a.Bans(), nil },
	},
	{
		method: "POST", path: "/api/v1/bans", summary: "Keep a source out", body: Imposition{}, result: Ban{},
		answer: func(a API, c call) (any, error) {
			var b Imposition
			if err := c.body(&b); err != nil {
				return nil, err
			}
			var length time.Duration
			if b.Duration != "" {
				var err error
				if length, err = time.ParseDuration(b.Duration); err != nil || length <= 0 {
					return nil, BadInput("duration: " + strconv.Quote(b.Duration) + ` is not a duration such as "10m"`)
				}
			}
			return a.Impose(b.Source, length)
		},
	},
	{
		method: "DELETE", path: "/api/v1/bans/{source...}", summary: "End a ban",
		answer: func(a API, c call) (any, error) { return nil, removed(a.Lift(c.PathValue("source"))) },
	},
	{
		method: "GET", path: "/api/v1/upstreams", summary: "Upstreams, their members and health", result: []Upstream{},
		answer: func(a API, _ call) (any, error) { return a.Upstreams(), nil },
	},
	{
		method: "PUT", path: "/api/v1/upstreams/{name}/drain", summary: "Have no new tunnels go through a member, or go there again", body: MemberDrain{},
		answer: func(a API, c call) (any, error) {
			var m MemberDrain
			if err := c.body(&m); err != nil {
				return nil, err
			}
			return nil, a.DrainMember(c.PathValue("name"), m)
		},
	},
	{
		method: "GET", path: "/api/v1/dns", summary: "The resolver's cache", result: []CachedName{}, query: []parameter{{"name", "one name"}},
		answer: func(a API, c call) (any, error) { return a.Names(c.query.Get("name")), nil },
	},
	{
		method: "DELETE", path: "/api/v1/dns", summary: "Drop answers from the resolver's cache", result: Flushed{}, query: []parameter{{"name", "one name; all of them without it"}},
		answer: func(a API, c call) (any, error) { return Flushed{a.FlushNames(c.query.Get("name"))}, nil },
	},
	{
		method: "GET", path: "/api/v1/config", summary: "The configuration in force as TOML, secrets masked", result: plainText(""),
		answer: func(a API, _ call) (any, error) {
			var b strings.Builder
			err := a.Config(&b)
			if err != nil {
				return nil, err
			}
			return plainText(strings.TrimSuffix(b.String(), "\n")), nil
		},
	},
	{
		method: "POST", path: "/api/v1/reload", summary: "Read the configuration again", result: Reload{},
		answer: func(a API, c call) (any, error) { return a.Reload(c.Context()), nil },
	},
	{
		method: "POST", path: "/api/v1/upgrade", summary: "Start the program anew and hand over to it; no connection is lost", result: Upgrade{},
		answer: func(a API, c call) (any, error) { return a.Upgrade(c.Context()), nil },
	},
	{
		method: "POST", path: "/api/v1/drain", summary: "Stop: no new connections, and an end when those of now have ended",
		answer: func(a API, _ call) (any, error) { a.Drain(); return nil, nil }, //nolint:nilnil // 204
	},
	{
		method: "GET", path: "/api/v1/log", summary: "The level of the log", result: LogLevel{},
		answer: func(a API, _ call) (any, error) { return LogLevel{a.Level()}, nil },
	},
	{
		method: "PUT", path: "/api/v1/log", summary: "Set the level of the log, until the next reload", body: LogLevel{},
		answer: func(a API, c call) (any, error) {
			var l LogLevel
			if err := c.body(&l); err != nil {
				return nil, err
			}
			return nil, a.SetLevel(l.Level)
		},
	},
	{
		method: "GET", path: "/api/v1/denials", summary: "The latest requests that the rules refused, or would have refused but for acl.report_only", result: []Denial{},
		answer: func(a API, _ call) (any, error) { return a.Denials(), nil },
	},
	{
		method: "GET", path: "/api/v1/events", summary: "A stream of events: " + strings.Join(EventNames, ", "), result: Event{},
		query: []parameter{{"type", "only these events, comma-separated"}}, stream: API.streamEvents,
	},
}

func init() { // by itself it would refer to itself
	operations = append(operations, userOperations...)
	operations = append(operations, operation{
		method: "GET", path: "/api/v1/openapi.json", summary: "This API as an OpenAPI document", result: map[string]any{},
		answer: func(API, call) (any, error) { return Document(), nil },
	})
}

func removed(was bool, err error) error {
	switch {
	case err != nil:
		return BadInput(err.Error())
	case !was:
		return NotFound("there is no such entry")
	}
	return nil
}
