package conn

import (
	"cleversocks/authsvc"
)

// withoutPassword is the identity of a client that needs no password: its
// address is whitelisted, or a user who may still come from there logged in
// from it a while ago, or nobody needs one. ok is false when it needs one.
func (s *session) withoutPassword() (identity authsvc.Identity, ok bool) {
	auth, source := &s.policy.Auth, s.client.Addr()
	if auth.Whitelist.Contains(source) {
		return authsvc.Identity{Method: authsvc.MethodWhitelist}, true
	}
	if auth.Once != nil && auth.Users != nil {
		if entry, known := auth.Once.Lookup(source); known {
			if identity, err := auth.Users.AdmitOnce(entry); err == nil {
				return identity, true
			}
		}
	}
	if auth.Required {
		return authsvc.Identity{}, false
	}
	return authsvc.Identity{Method: authsvc.MethodNone}, true
}
