// Package upgrade has one process take over from another without a gap: the
// sockets that a process is started with, by systemd or by its predecessor, and
// the start of a successor.
//
// LISTEN_FDS is the one way in (sd_listen_fds(3)). A predecessor passes a
// channel as the first descriptor, and tells over it what the others are, what
// of the command line is secret, and what it has counted so far:
//
//	predecessor                              successor
//	     | start, sockets ---------------------> |
//	     | hello: identities, secrets ---------> |
//	     |                                       | reads and verifies its settings
//	     | <------------- ready, or failed: why  |
//	stops accepting; clients wait in the queue   |
//	     | state ------------------------------> |
//	     | yours ------------------------------> |
//	     | <--------------------------- serving  | accepts
//	drains; what it still counts --------------> | adds that
//	     | <--------- what counts in all         |
//	ends                                         |
//
// Until "serving" the predecessor can go on as if nothing had been, and says so by
// "failed: why". If it ends without, the successor serves in its place. Sockets are
// matched by an identity that the predecessor gives, never by address alone:
// two listeners may have asked for port 0 of the same address.
package upgrade

import (
	"encoding/json"
	"errors"
	"time"
)

// Socket says what a descriptor is that a predecessor passes on.
type Socket struct {
	Role Role `json:"role"`
	// Of a listener: its settings' address and name, its mode, which one it is
	// of several with equal settings, and which of its accept sockets this is.
	Address string `json:"address,omitempty"`
	Name    string `json:"name,omitempty"` // of a systemd socket: its name there
	Mode    string `json:"mode,omitempty"`
	Nth     int    `json:"nth,omitempty"`
	Shard   int    `json:"shard,omitempty"`
	// Bound is where it is bound, with the real port.
	Bound string `json:"bound,omitempty"`
	// File tells the file of a unix socket from one that took its place.
	File *FileID `json:"file,omitempty"`
}

// FileID is what a path led to when the socket was made.
type FileID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// Role is what a descriptor is for.
type Role string

// The roles.
const (
	RoleListener    Role = "listener"
	RoleDatagrams   Role = "datagrams" // of a listener that tproxy leads to
	RoleAdmin       Role = "admin"
	RoleHealth      Role = "health"
	RoleSystemd     Role = "systemd"     // passed on under the name that systemd gave it
	RolePredecessor Role = "predecessor" // the channel to one of before, which still drains
)

// Settings are those in force, for a predecessor to go on by.
type Settings struct {
	// Text is the configuration file's, which may have been written since; nil: there is
	// none, or this process is of a version that does not say.
	Text []byte `json:"text"`
}

// Hello is what a predecessor says first.
type Hello struct {
	PID     int      `json:"pid"`
	Sockets []Socket `json:"sockets"`
	// Args is the command line without the program's name. What others can read
	// of it has masks in the place of secrets.
	Args []string `json:"args"`
	// Environ holds the variables that have secrets, NAME=VALUE.
	Environ []string `json:"environ,omitempty"`
	// Config is the configuration file, if it came through a pipe, which can be
	// read once.
	Config []byte `json:"config,omitempty"`
	// Filled says that there was something in the configuration file, and LogIn
	// that clients have to log in: neither ends by a file that was cut short.
	Filled bool `json:"filled,omitempty"`
	LogIn  bool `json:"log_in,omitempty"`
	// Sandbox is what the successor is confined to, being the predecessor's child:
	// a JSON object, or nothing.
	Sandbox json.RawMessage `json:"sandbox,omitempty"`
	// Sessions is as in Turn, so far.
	Sessions uint64 `json:"sessions,omitempty"`
	// Counted are upgrades so far, by outcome.
	Counted map[string]uint64 `json:"counted,omitempty"`
}

// Turn is what goes with the turn to serve.
type Turn struct {
	// Sessions is how many sessions there have been, in all generations: those of
	// the successor are numbered from there on.
	Sessions uint64 `json:"sessions,omitempty"`
}

// Bounds of the conversation.
const (
	// ReadyTimeout is how long a successor may take to read its settings.
	ReadyTimeout = 30 * time.Second
	// ServingTimeout is how long it may take from there on, while nobody
	// accepts.
	ServingTimeout = 10 * time.Second
	helloTimeout   = 10 * time.Second
	killGrace      = 2 * time.Second
)

// Marker is the variable that tells a successor from a process that systemd
// started. Its value is the predecessor's PID.
const Marker = "CLEVERSOCKS_PREDECESSOR"

// Errors of a start.
var (
	// ErrPID1 is why there is no upgrade in a container's first process: the
	// system ends a container with it.
	ErrPID1 = errors.New("this is PID 1, whose end is the end of its container or machine: start a new container instead")
	// ErrGone is a peer that has ended, or closed the channel.
	ErrGone = errors.New("it is gone")
)
