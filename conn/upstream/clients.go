package upstream

import (
	"slices"

	"github.com/gaissmai/bart"
)

// clients are those that a rule is for. What is nil does not restrict.
type clients struct {
	subjects bool // users or groups restrict
	users    map[string]struct{}
	groups   []string
	from     *bart.Lite
	doors    []string
}

func clientsOf(r Rule) clients {
	c := clients{subjects: len(r.Users)+len(r.Groups) > 0, users: make(map[string]struct{}, len(r.Users)), groups: r.Groups, doors: r.Listeners}
	for _, u := range r.Users {
		c.users[u] = struct{}{}
	}
	if len(r.From) > 0 {
		c.from = new(bart.Lite)
		for _, p := range r.From {
			c.from.Insert(p)
		}
	}
	return c
}

func (c *clients) match(q *Query) bool {
	return (!c.subjects || c.names(q)) && (c.from == nil || q.Source.IsValid() && c.from.Contains(q.Source)) &&
		(len(c.doors) == 0 || slices.Contains(c.doors, q.Listener))
}

// names reports whether the user, or one of the user's groups, is named.
func (c *clients) names(q *Query) bool {
	if _, ok := c.users[q.User]; ok {
		return true
	}
	return slices.ContainsFunc(q.Groups, func(g string) bool { return slices.Contains(c.groups, g) })
}
