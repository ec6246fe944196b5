package admin

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// SessionFilter says which connections are meant: those that meet all that is
// not empty.
type SessionFilter struct {
	ID       string `json:"id,omitempty"` // of this replica
	User     string `json:"user,omitempty"`
	Client   string `json:"client,omitempty"` // its address alone, or with the port
	Target   string `json:"target,omitempty"` // a part of it
	Listener string `json:"listener,omitempty"`
}

func filterOf(c call) SessionFilter {
	return SessionFilter{User: c.query.Get("user"), Client: c.query.Get("client"), Target: c.query.Get("target"), Listener: c.query.Get("listener")}
}

// IsZero reports a filter that everything would match.
func (f SessionFilter) IsZero() bool { return f == SessionFilter{} }

// Matches reports whether a connection is meant.
func (f SessionFilter) Matches(s *Session) bool {
	return (f.ID == "" || s.ID == f.ID) && (f.User == "" || s.User == f.User) &&
		(f.Client == "" || s.Client == f.Client || hostOf(s.Client) == strings.Trim(f.Client, "[]")) &&
		(f.Target == "" || strings.Contains(s.Target, f.Target)) &&
		(f.Listener == "" || s.Listener == f.Listener)
}

func hostOf(address string) string {
	return strings.Trim(address[:max(strings.LastIndexByte(address, ':'), 0)], "[]")
}

// searched reports whether each word is a part of what names a connection.
func searched(s *Session, words []string) bool {
	if len(words) == 0 {
		return true
	}
	all := strings.ToLower(s.Client + " " + s.User + " " + s.Target + " " + s.Listener)
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(all, w) })
}

func listSessions(a API, c call) (any, error) {
	filter, words := filterOf(c), strings.Fields(strings.ToLower(c.query.Get("search")))
	list := slices.DeleteFunc(a.Sessions(c.Context()), func(s Session) bool { return !filter.Matches(&s) || !searched(&s, words) })
	order := map[string]func(a, b Session) int{
		"": byAge, "age": byAge,
		"bytes": func(a, b Session) int { return cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut) },
		"rate":  func(a, b Session) int { return cmp.Compare(b.RateIn+b.RateOut, a.RateIn+a.RateOut) },
	}[c.query.Get("sort")]
	if order == nil {
		return nil, BadInput("sort: age, bytes or rate")
	}
	slices.SortFunc(list, func(a, b Session) int { return cmp.Or(order(a, b), byAge(a, b)) })
	total := len(list)
	for _, p := range []struct {
		name string
		cut  func(n int)
	}{
		{"offset", func(n int) { list = list[min(n, len(list)):] }},
		{"limit", func(n int) { list = list[:min(n, len(list))] }},
	} {
		if value := c.query.Get(p.name); value != "" {
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return nil, BadInput(p.name + ": a number")
			}
			p.cut(n)
		}
	}
	return SessionPage{Sessions: list, Total: total}, nil
}

func byAge(a, b Session) int {
	return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.ID, b.ID))
}
