package config

const (
	reloadDoc = "What a reload (SIGHUP) does to connections that are open."
	stateDoc  = "What is kept over a restart."
)

// Reload is the [reload] section.
type Reload struct {
	Revoke bool
}

func (r *Reload) keys() []Key {
	return []Key{
		{
			Name: "revoke", Value: &r.Revoke, Default: "false",
			Doc: "Closes the connections that the new users and rules would refuse. The log says which.",
		},
	}
}

// State is the [state] section.
type State struct {
	Directory string // "": in memory only
}

func (s *State) keys() []Key {
	return []Key{
		{
			Name: "directory", Value: &s.Directory, Default: "",
			Doc: "Where quotas, bans and auth-once are kept over a restart. Empty: they are kept in memory. The directory must exist, and be writable, at the start. When it cannot be read or written later, the daemon runs on, logs an error and counts it in `cleversocks_state_total`.",
		},
	}
}
