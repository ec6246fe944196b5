package conn

import (
	"cleversocks/authsvc"
)

// withoutPassword is the identity of a client that needs no password. ok is
// false when it needs one.
func (s *session) withoutPassword() (identity authsvc.Identity, ok bool) {
	if s.policy.Auth.Required {
		return authsvc.Identity{}, false
	}
	return authsvc.Identity{Method: authsvc.MethodNone}, true
}
