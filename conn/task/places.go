package task

import "slices"

// places are where a panic may be contained, by the part of the program: the
// names of scopes, and of what recovers by itself. `task lint` finds a name that
// is not here.
var places = []string{
	// A connection, its tunnel, its record, and its commands.
	"conn", "relay", "record", "httpforward", "http2front", "udp", "bind", "decision",
	// What it needs.
	"dial", "look-up", "dns", "dns query", "dns probe", "dns refresh",
	// The daemon.
	"start", "service", "reload", "users", "shutdown", "upgrade", "predecessor", "draining", "retire",
	"shared", "admin", "health", "usage", "log", "acme",
	// A command of its own.
	"top",
}

// Places are the values that the panic counter's label may have.
func Places() []string { return slices.Clone(places) }
