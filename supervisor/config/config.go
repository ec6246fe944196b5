// Package config reads the settings: defaults, then a TOML file, then the
// environment, then flags, into one typed Config that has been validated.
// Nothing else in the daemon knows a default or reads a variable.
//
//	flags := pflag.NewFlagSet("cleversocks", pflag.ContinueOnError)
//	config.RegisterFlags(flags, nil)
//	loader := config.NewLoader(config.Sources{File: path, Flags: flags, Environ: os.Environ()})
//	cfg, err := loader.Load() // again on SIGHUP
//
// A setting is one row of its section's table of Keys, in the section's file.
// To add a section, add a file with its type and rows, a field of Config and
// a line in sections; then run `go generate ./cmd/cleversocks` for the
// reference.
package config

// Config is every setting, typed and validated. It is not changed after Load.
type Config struct {
	Log          Log
	Limits       Limits
	Relay        Relay
	Drain        Drain
	Reload       Reload
	Listeners    []Listener
	Auth         Auth
	Users        []User
	UserDefaults UserDefaults
	ACL          ACL
	Resolver     Resolver
	Egress       Egress
	UDP          UDP
	Bind         Bind
	Upstreams    []Upstream
	Forwards     []Forward // those of -f first
	Admin        Admin
	State        State
	Sandbox      Sandbox
	SharedState  SharedState
	Usage        Usage
	Secrets      Secrets

	// Warnings are sentences that an operator should read after each load.
	Warnings []string

	file     string // the configuration's; "": none
	text     []byte // what was in it; nil: there is none
	origins  map[string]origin
	subjects *subjects // nil: unknown, as something is wrong with the users
}

// sections binds the rows of all settings to c, in the order of the
// reference.
func (c *Config) sections() []section {
	return []section{
		table("log", logDoc, c.Log.keys()),
		table("limits", limitsDoc, c.Limits.keys()),
		table("relay", relayDoc, c.Relay.keys()),
		table("drain", drainDoc, c.Drain.keys()),
		table("reload", reloadDoc, c.Reload.keys()),
		arrayTable("listener", listenerDoc, 1, &c.Listeners, (*Listener).keys),
		table("auth", authDoc, c.Auth.keys()),
		arrayTable("user", userDoc, 0, &c.Users, (*User).keys),
		table("user_defaults", userDefaultsDoc, c.UserDefaults.keys()),
		table("acl", aclDoc, c.ACL.keys()),
		arrayTable("acl.rule", ruleDoc, 0, &c.ACL.Rules, (*Rule).keys),
		table("resolver", resolverDoc, c.Resolver.keys()),
		table("egress", egressDoc, c.Egress.keys()),
		table("udp", udpDoc, c.UDP.keys()),
		table("bind", bindDoc, c.Bind.keys()),
		arrayTable("upstream", upstreamDoc, 0, &c.Upstreams, (*Upstream).keys),
		arrayTable("forward", forwardDoc, 0, &c.Forwards, (*Forward).keys),
		table("admin", adminDoc, c.Admin.keys()),
		table("state", stateDoc, c.State.keys()),
		table("sandbox", sandboxDoc, c.Sandbox.keys()),
		table("shared_state", sharedDoc, c.SharedState.keys()),
		table("usage", usageDoc, c.Usage.keys()),
		table("secrets", secretsDoc, c.Secrets.keys()),
	}
}

// finishers read files, resolve names and judge combinations, section by
// section, once every single value is right by itself.
func (c *Config) finishers() []func(*finisher) {
	return []func(*finisher){
		c.finishLog,
		c.finishListeners,
		c.finishLimits,
		c.finishAuth,
		c.finishUsers,
		c.finishACL,
		c.finishResolver,
		c.finishEgress,
		c.finishRoutes,
		c.finishSubjects,
		c.finishAdmin,
		c.finishShared,
		c.finishUsage,
		c.finishSecrets,
		c.finishCredential,
	}
}

// isSet says whether a key was given anywhere: file, environment or flag.
func (c *Config) isSet(path string) bool { return c.origins[path].layer != fromDefault }
