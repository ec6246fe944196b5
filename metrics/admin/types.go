package admin

import "time"

// What the API tells, as JSON. Times are RFC 3339, sizes bytes, durations
// seconds. A field that has nothing to say is left out. A name that is no text
// has U+FFFD in the place of its odd bytes.

// Status is the daemon at a glance.
type Status struct {
	Version     string    `json:"version"`
	Commit      string    `json:"commit"`
	PID         int       `json:"pid"`
	Started     time.Time `json:"started"`
	Ready       bool      `json:"ready"`
	Reason      string    `json:"reason,omitempty"`   // why it is not ready
	Degraded    []string  `json:"degraded,omitempty"` // what does not work, while it is ready
	Draining    bool      `json:"draining"`
	Generation  uint64    `json:"generation"` // of the configuration
	Connections int       `json:"connections"`
	Limit       int       `json:"limit"` // of connections
	Accepted    uint64    `json:"accepted"`
	BytesIn     uint64    `json:"bytes_in"`  // from clients
	BytesOut    uint64    `json:"bytes_out"` // to clients
	// Refused counts connections and requests that were refused, by reason.
	Refused   map[string]uint64 `json:"refused"`
	CPU       float64           `json:"cpu_seconds"`
	Memory    uint64            `json:"memory_bytes"`
	LogLevel  string            `json:"log_level"`
	Listeners []string          `json:"listeners"`
	Reload    *Reload           `json:"reload,omitempty"` // the last one
	API       bool              `json:"api"`              // there is a token, and so an API
	Sandbox   Sandbox           `json:"sandbox"`
	// Predecessors are the processes of before upgrades that still drain.
	Predecessors []Predecessor `json:"predecessors,omitempty"`
}

// Sandbox is what the process has given up.
type Sandbox struct {
	Landlock  string `json:"landlock"` // what it holds; "off": nothing
	Seccomp   bool   `json:"seccomp"`  // calls that a proxy never makes are denied
	CoreDumps bool   `json:"core_dumps"`
	Inherited bool   `json:"inherited,omitempty"` // from a predecessor, in an upgrade
}

// Predecessor is a process that drains after an upgrade.
type Predecessor struct {
	PID         int `json:"pid"`
	Connections int `json:"connections"`
}

// Upgrade is how an upgrade went.
type Upgrade struct {
	Time  time.Time `json:"time"`
	OK    bool      `json:"ok"`
	PID   int       `json:"pid,omitempty"`   // of the successor
	Error string    `json:"error,omitempty"` // why there is none
}

// Reload is how a reload went.
type Reload struct {
	Time  time.Time `json:"time"`
	OK    bool      `json:"ok"`
	Error string    `json:"error,omitempty"`
	// Warnings are what an operator should read of settings that are in force.
	Warnings []string `json:"warnings,omitempty"`
}

// Session is one connection.
type Session struct {
	ID        string    `json:"id"`
	Process   int       `json:"process,omitempty"` // of before an upgrade, which drains; 0: the one that answers
	Listener  string    `json:"listener"`
	Client    string    `json:"client"` // address and port
	Started   time.Time `json:"started"`
	Handshake bool      `json:"handshake,omitempty"` // no more is known yet
	Requests  bool      `json:"requests,omitempty"`  // it carries HTTP requests, each of which is told by itself
	User      string    `json:"user,omitempty"`
	Auth      string    `json:"auth,omitempty"`
	Protocol  string    `json:"protocol,omitempty"`
	Command   string    `json:"command,omitempty"`
	Target    string    `json:"target,omitempty"`
	HostIP    string    `json:"host_ip,omitempty"`
	Local     string    `json:"local,omitempty"`
	Upstream  string    `json:"upstream,omitempty"`
	Rule      string    `json:"rule,omitempty"`
	BytesIn   int64     `json:"bytes_in"`
	BytesOut  int64     `json:"bytes_out"`
	// Rates are bytes a second over the last seconds.
	RateIn  float64 `json:"rate_in"`
	RateOut float64 `json:"rate_out"`
}

// SessionPage is a part of the sessions.
type SessionPage struct {
	Sessions []Session `json:"sessions"`
	Total    int       `json:"total"` // that match
}

// Closed is how many connections were closed, on the replica that was asked.
type Closed struct {
	Closed int `json:"closed"`
}

// User is a user with limits and usage.
type User struct {
	Name string `json:"name"`
	// State is "ok", or why the user may not use the proxy now: disabled,
	// not_yet_valid, no_longer_valid, outside_hours, quota.
	State          string     `json:"state"`
	Disabled       bool       `json:"disabled,omitempty"`
	Groups         []string   `json:"groups,omitempty"`
	From           []string   `json:"from,omitempty"`
	Connections    int        `json:"connections"`
	MaxConnections int        `json:"max_connections,omitempty"`
	MaxAddresses   int        `json:"max_addresses,omitempty"`
	BytesIn        int64      `json:"bytes_in"`  // of connections that are open
	BytesOut       int64      `json:"bytes_out"` // of connections that are open
	Bandwidth      *Bandwidth `json:"bandwidth,omitempty"`
	Quota          *Quota     `json:"quota,omitempty"`
	Egress         []string   `json:"egress,omitempty"`
	ValidFrom      *time.Time `json:"valid_from,omitempty"`
	ValidUntil     *time.Time `json:"valid_until,omitempty"`
	Hours          []string   `json:"hours,omitempty"`
	Note           string     `json:"note,omitempty"`
	Where          string     `json:"where,omitempty"` // file and line
	InFile         bool       `json:"in_file"`         // of auth.users_file: can be changed here
	// FleetConnections are those on all replicas, and Replicas says where.
	FleetConnections int            `json:"fleet_connections,omitempty"`
	Replicas         []ReplicaShare `json:"replicas,omitempty"`
}

// Bandwidth is in bytes a second; 0: no limit.
type Bandwidth struct {
	Up   int64 `json:"up"`   // from the user
	Down int64 `json:"down"` // to the user
}

// NewUser is a user to be added, with one of password and hash.
type NewUser struct {
	Name string `json:"name"`
	UserChange
}

// UserChange is what is to change of a user. What is left out stays. The limits
// are written as in the settings.
type UserChange struct {
	Password     *string `json:"password,omitempty"`
	PasswordHash *string `json:"password_hash,omitempty"` // argon2id or bcrypt, of `cleversocks hash`
	Disabled     *bool   `json:"disabled,omitempty"`
	UserLimits
	// Unset are limits that are to be as if they had never been set.
	Unset []string `json:"unset,omitempty"`
}

// UserLimits are the limits of a user that can be changed. See the settings of
// [[user]].
type UserLimits struct {
	Groups         *[]string        `json:"groups,omitempty"`
	From           *[]string        `json:"from,omitempty"`
	MaxConnections *int             `json:"max_connections,omitempty"`
	Bandwidth      *BandwidthChange `json:"bandwidth,omitempty"`
	Quota          *QuotaChange     `json:"quota,omitempty"`
	MaxAddresses   *int             `json:"max_addresses,omitempty"`
	ValidFrom      *time.Time       `json:"valid_from,omitempty"`
	ValidUntil     *time.Time       `json:"valid_until,omitempty"`
	Hours          *[]string        `json:"hours,omitempty"`
	Egress         *[]string        `json:"egress,omitempty"`
	Note           *string          `json:"note,omitempty"`
}

// BandwidthChange is rates such as "10MiB/s"; "0B/s": no limit.
type BandwidthChange struct {
	Up   string `json:"up,omitempty"`
	Down string `json:"down,omitempty"`
}

// QuotaChange is a size such as "100GiB" ("0B": no quota) and a duration such as
// "720h".
type QuotaChange struct {
	Bytes  string `json:"bytes,omitempty"`
	Period string `json:"period,omitempty"`
}

// UserChanged is a user after a change.
type UserChanged struct {
	User   *User `json:"user,omitempty"` // nil: removed
	Closed int   `json:"closed"`         // connections that ended with it
}

// Bounds of one import: each password takes some time to hash.
const (
	MaxImport          = 10_000
	MaxImportPasswords = 100
)

// UserImport is users to be added at once, all or none: at most MaxImport, of whom
// MaxImportPasswords come with a password in the place of its hash.
type UserImport struct {
	Users []NewUser `json:"users"`
	// Existing is what to do with those who are in auth.users_file already: refuse
	// all of it (the default), keep them as they are, or change what is given.
	Existing string `json:"existing,omitempty"`
}

// The values of UserImport.Existing.
const (
	ExistingRefuse = "refuse"
	ExistingKeep   = "keep"
	ExistingChange = "change"
)

// UsersImported is what came of an import.
type UsersImported struct {
	Added   int `json:"added"`
	Changed int `json:"changed"`
	Kept    int `json:"kept"`
	Closed  int `json:"closed"` // connections that ended with it
}

// ReplicaShare is what a user has on one replica.
type ReplicaShare struct {
	Replica     string `json:"replica"`
	Connections int    `json:"connections"`
}

// Fleet is the replicas that share their state.
type Fleet struct {
	Replica  string    `json:"replica"` // the one that answers; "": it is alone
	ID       string    `json:"id"`
	Degraded string    `json:"degraded,omitempty"` // what is wrong with the shared state
	Replicas []Replica `json:"replicas"`           // those that live
}

// Replica is one of a fleet.
type Replica struct {
	Name        string    `json:"name"`
	ID          string    `json:"id"` // of the process
	Self        bool      `json:"self,omitempty"`
	LastBeat    time.Time `json:"last_beat"`
	Admin       string    `json:"admin,omitempty"` // address of its management endpoint
	Version     string    `json:"version,omitempty"`
	Started     time.Time `json:"started"`
	Generation  uint64    `json:"generation"` // of its configuration
	Connections int       `json:"connections"`
	Limit       int       `json:"limit"`
	Draining    bool      `json:"draining,omitempty"`
}

// Quota is what a user has used of a period.
type Quota struct {
	Limit     int64      `json:"limit"`
	Used      int64      `json:"used"`
	Remaining int64      `json:"remaining"`
	Until     *time.Time `json:"until,omitempty"` // the period's end, once it has begun
}

// WhitelistEntry is an address that auth-once lets in.
type WhitelistEntry struct {
	Address string    `json:"address"`
	User    string    `json:"user"`
	Method  string    `json:"method"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

// Admission lets an address in as a user.
type Admission struct {
	Address string `json:"address"`
	User    string `json:"user"`
}

// Ban is a source that is kept out.
type Ban struct {
	Source string    `json:"source"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Level  int       `json:"level"`
	// Replica is the one that banned it, in a fleet.
	Replica string `json:"replica,omitempty"`
}

// Imposition bans a source.
type Imposition struct {
	Source   string `json:"source"`
	Duration string `json:"duration,omitempty"` // as "10m"; the longest ban if it is left out
}

// Upstream is an upstream and its members.
type Upstream struct {
	Name    string   `json:"name"`
	Members []Member `json:"members"`
}

// Member is one way through an upstream.
type Member struct {
	Name    string  `json:"name"` // without credentials
	Up      bool    `json:"up"`
	Drained bool    `json:"drained"`
	Active  int64   `json:"active"` // tunnels
	Warm    int64   `json:"warm"`
	Latency float64 `json:"latency_seconds"` // of a handshake, smoothed; 0: unknown
}

// MemberDrain says whether new tunnels go through a member.
type MemberDrain struct {
	Member  string `json:"member"`
	Drained bool   `json:"drained"`
}

// CachedName is an answer in the resolver's cache.
type CachedName struct {
	Name      string    `json:"name"`
	Type      string    `json:"type"`
	Addresses []string  `json:"addresses,omitempty"`
	Error     string    `json:"error,omitempty"`
	From      string    `json:"from,omitempty"` // the name server that gave it
	Expires   time.Time `json:"expires"`
	Stale     bool      `json:"stale,omitempty"`
}

// Flushed is how many answers were dropped.
type Flushed struct {
	Flushed int `json:"flushed"`
}

// Denial is a request that the rules refused. Those of one client for the same
// are one, with the latest's time and connection.
type Denial struct {
	Time     time.Time `json:"time"`
	ID       string    `json:"id"`
	Count    int       `json:"count"`              // of connections
	Reported bool      `json:"reported,omitempty"` // acl.report_only let it pass
	Client   string    `json:"client"`
	User     string    `json:"user,omitempty"`
	Listener string    `json:"listener"`
	Command  string    `json:"command"`
	Target   string    `json:"target"`
	Address  string    `json:"address,omitempty"` // of the target, where that was judged
	Rule     string    `json:"rule"`
	Where    string    `json:"where,omitempty"` // the rule's file and line
	Sentence string    `json:"sentence"`        // for a person
	Allow    string    `json:"allow"`           // the rule that would allow it, as TOML
}

// Explanation is what a request meets: bans, the listener, the log-in, the
// forwarding rules, the rules.
type Explanation struct {
	Result   string   `json:"result"`          // allow, deny, or unresolved: the name has no address to judge
	Stage    string   `json:"stage"`           // where that was decided: accept, login or request
	By       string   `json:"by"`              // what decided: a rule, "default", "block_private", "ban", "allow_from", "authentication", "user" ...
	Where    string   `json:"where,omitempty"` // the rule's file and line
	User     string   `json:"user,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	From     string   `json:"from"`
	To       string   `json:"to"`
	Command  string   `json:"command"`
	Listener string   `json:"listener,omitempty"`
	// Authentication is how the client is let in: a method, or "needed".
	Authentication string            `json:"authentication"`
	UserWhere      string            `json:"user_where,omitempty"` // the user's file and line
	Complete       string            `json:"complete,omitempty"`   // the name that the search list made of the one asked for
	Forward        *ExplainedForward `json:"forward,omitempty"`
	Name           *Judgement        `json:"name,omitempty"`
	Addresses      []Judgement       `json:"addresses,omitempty"`
	Text           string            `json:"text"` // the same, for a person
}

// ExplainedForward is the forwarding rule that a request meets.
type ExplainedForward struct {
	Rule     string `json:"rule"`
	Action   string `json:"action"` // direct, upstream, reject
	Upstream string `json:"upstream,omitempty"`
	Target   string `json:"target"` // what is asked for there
}

// Judgement is what the rules say of a name or an address.
type Judgement struct {
	What     string `json:"what"`
	Allow    bool   `json:"allow"`
	Reported bool   `json:"reported,omitempty"` // acl.report_only lets it pass
	Rule     string `json:"rule"`
	Where    string `json:"where,omitempty"`
}

// LogLevel is the level of the log.
type LogLevel struct {
	Level string `json:"level"`
}

// Event is one message of the event stream: the name is the SSE event's.
type Event struct {
	Time    time.Time `json:"time"`
	Session *Session  `json:"session,omitempty"`
	Cause   string    `json:"cause,omitempty"` // of a session that has ended
	Denial  *Denial   `json:"denial,omitempty"`
	Ban     *Ban      `json:"ban,omitempty"`
	Reload  *Reload   `json:"reload,omitempty"`
	User    string    `json:"user,omitempty"`   // who was changed by an operator
	Change  string    `json:"change,omitempty"` // added, changed, removed, reset; imported: many users
}

// Failure is the body of every answer that is none.
type Failure struct {
	Error string `json:"error"`
}
