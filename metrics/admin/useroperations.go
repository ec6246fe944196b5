package admin

import (
	"cmp"
	"slices"
	"strconv"
)

// userOperations are the rows of the API about users.
var userOperations = []operation{
	{
		method: "GET", path: "/api/v1/users", summary: "Users, their limits and connections, and what is left of their quotas", result: []User{},
		query: []parameter{
			{"sort", "name (the default), or connections: most first, and then those who may not use the proxy now"},
			{"limit", "how many at most"},
		},
		answer: listUsers,
	},
	{
		method: "GET", path: "/api/v1/users/{name}", summary: "One user", result: User{},
		answer: func(a API, c call) (any, error) { return a.User(c.Context(), c.PathValue("name")) },
	},
	{
		method: "POST", path: "/api/v1/users", summary: "Add a user to auth.users_file, with a password or its hash", body: NewUser{}, result: UserChanged{}, changes: true,
		answer: func(a API, c call) (any, error) {
			var u NewUser
			if err := c.body(&u); err != nil {
				return nil, err
			}
			return a.AddUser(c.Context(), u)
		},
	},
	{
		method: "POST", path: "/api/v1/users/import", summary: "Add and change many users of auth.users_file, all or none", body: UserImport{}, result: UsersImported{}, changes: true,
		answer: func(a API, c call) (any, error) {
			var i UserImport
			if err := c.bodyUpTo(maxImport, &i); err != nil {
				return nil, err
			}
			return a.ImportUsers(c.Context(), i)
		},
	},
	{
		method: "DELETE", path: "/api/v1/users/{name}/usage", summary: "Forget what a user has moved of the quota, on all replicas: a new period begins", result: User{}, changes: true,
		answer: func(a API, c call) (any, error) { return a.ResetUsage(c.Context(), c.PathValue("name")) },
	},
	{
		method: "PATCH", path: "/api/v1/users/{name}", summary: "Change a user of auth.users_file: password, disabled, limits. What is left out stays", body: UserChange{}, result: UserChanged{}, changes: true,
		answer: func(a API, c call) (any, error) {
			var change UserChange
			if err := c.body(&change); err != nil {
				return nil, err
			}
			return a.ChangeUser(c.Context(), c.PathValue("name"), change)
		},
	},
	{
		method: "DELETE", path: "/api/v1/users/{name}", summary: "Take a user out of auth.users_file, and end the user's connections", result: UserChanged{}, changes: true,
		answer: func(a API, c call) (any, error) { return a.RemoveUser(c.Context(), c.PathValue("name")) },
	},
}

func listUsers(a API, c call) (any, error) {
	list := a.Users(c.Context())
	switch c.query.Get("sort") {
	case "", "name":
	case "connections":
		outside := func(u *User) int {
			if u.State != "ok" {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(list, func(a, b User) int {
			return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(outside(&a), outside(&b)))
		})
	default:
		return nil, BadInput("sort: name or connections")
	}
	if value := c.query.Get("limit"); value != "" {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return nil, BadInput("limit: a number")
		}
		list = list[:min(n, len(list))]
	}
	return list, nil
}
