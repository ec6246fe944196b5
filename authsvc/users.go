package authsvc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"cleversocks/metrics"
)

// rememberedMost bounds the memory of right passwords, some 2 MB.
const rememberedMost = 10_000

// maxPassword bounds what is hashed; RFC 1929 has 255, HTTP Basic more.
const maxPassword = 1024

// UserEntry is one [[user]].
type UserEntry struct {
	Account
	PasswordHash string // argon2id or bcrypt
	Password     string // plain; needs AllowPlain
}

// UsersOptions is everything that Users are made of.
type UsersOptions struct {
	Users []UserEntry
	// Defaults are the limits of users who have no entry in Users.
	Defaults Account
	File     string // users_file; "" for none
	// Open opens File, which the reader closes; nil: from the file system.
	Open       func(path string) (io.ReadCloser, error)
	AllowPlain bool // in Users and File
	// Attributes reads what a line of File has behind its hash, into the
	// account of a user whose limits are Defaults where it says nothing of
	// them. Nil: no line may have any. Its errors hold no secret.
	Attributes func(text string) (Account, error)
	// User and Password are the single pair of -u and -P, always plain. An
	// empty User means there is none.
	User, Password string
	// Queue bounds the hashing. Share one over all reloads.
	Queue *Queue
	// Remember is how long a success needs no hash; 0: ten minutes.
	Remember time.Duration
	// Before are the users of the generation before, whose right passwords are
	// remembered still, but for those that have changed; nil: there are none.
	Before *Users
	// Edited: nothing but File differs from Before's options, so that what has
	// been read of attributes is still right.
	Edited bool
	// Removes is the user whom the edit takes out of File. One of that name who
	// is still there is another: sessions of before end. "": nobody.
	Removes string
	Metrics *metrics.Auth
}

// Users is the compiled set of everybody with an account. It never changes; a
// reload makes a new one.
type Users struct {
	key      *macKey // of plain secrets
	byName   map[string]*user
	timed    []*Account // those whom time lets in or out
	defaults Account
	inFile   int       // how many of them the users file has
	schemes  []*secret // one of each scheme but plain
	memory   int64     // bytes of the largest
	queue    *Queue
	recent   *remembered
	metrics  *metrics.Auth
}

type user struct {
	Account
	secret     *secret // nil: no password
	attributes string  // of the users file, which the account was read from
}

// NewUsers compiles the users. The error names the entry's file and line.
func NewUsers(o UsersOptions) (*Users, error) {
	u := &Users{key: newKey(), byName: map[string]*user{}, queue: o.Queue, metrics: o.Metrics, defaults: o.Defaults}
	if o.Before != nil {
		u.recent = o.Before.recent
	} else {
		u.recent = newRemembered(cmp.Or(max(o.Remember, 0), 10*time.Minute), rememberedMost)
	}
	for i := range o.Users {
		if err := u.addEntry(i, &o.Users[i], o.AllowPlain); err != nil {
			return nil, err
		}
	}
	if o.File != "" {
		if err := u.addFile(&o); err != nil {
			return nil, err
		}
	}
	if o.User != "" {
		if len(o.User) > MaxName {
			return nil, fmt.Errorf("auth.user: a user name has 1 to %d bytes", MaxName)
		}
		switch {
		case o.Password == "":
			return nil, fmt.Errorf("auth.user: user %q has an empty password", o.User)
		case IsHash([]byte(o.Password)):
			return nil, fmt.Errorf("auth.password: %w", errForeign([]byte(o.Password)))
		}
		if old := u.byName[o.User]; old != nil && old.secret != nil {
			return nil, fmt.Errorf("auth.user: user %q has a password already (%s)", o.User, old.Where)
		}
		account := u.defaults
		account.Name, account.Where = o.User, "auth.user"
		u.give(&account, plainSecret(u.key, []byte(o.Password)))
	}
	u.collectSchemes()
	for name, entry := range u.byName {
		if entry.Validity.timed() {
			u.timed = append(u.timed, &entry.Account)
		}
		entry.stamp = entry.secret.stamp()
		entry.removed = new(atomic.Bool)
		if old := o.Before.Account(name); old != nil && !old.Removed() && name != o.Removes {
			entry.removed = old.removed
		}
		if o.Before != nil && o.Before.byName[name] != nil {
			entry.secret.goOn(o.Before.byName[name].secret)
		}
	}
	return u, nil
}

// parser reads attributes; nil: nobody can. Those of an edited file are nearly
// all known already. It knows Before, so no generation may keep it.
func (o *UsersOptions) parser() func(name, attributes string) (Account, error) {
	if o.Attributes == nil {
		return nil
	}
	return func(name, attributes string) (Account, error) {
		if o.Edited && o.Before != nil {
			if old := o.Before.byName[name]; old != nil && old.attributes == attributes {
				return old.Account, nil
			}
		}
		return o.Attributes(attributes)
	}
}

// Remove marks a user who has been taken out while the daemon runs, so that
// sessions of all generations end. One who is added later under the same name
// is another user.
func (u *Users) Remove(name string) {
	if entry := u.byName[name]; entry != nil {
		entry.removed.Store(true)
	}
}

// Schemes is the number of ways in which passwords are hashed. Each failed
// check costs all of them, so more than one or two deserves a warning.
func (u *Users) Schemes() int { return len(u.schemes) }

// InFile is how many users the users file has.
func (u *Users) InFile() int { return u.inFile }

// Powerless are the users without a password, by name: they can log in only
// where something else vouches for them.
func (u *Users) Powerless() []string {
	var names []string
	for name, entry := range u.byName {
		if entry.secret == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Len is the number of users.
func (u *Users) Len() int { return len(u.byName) }

// String keeps secrets out of logs.
func (u *Users) String() string { return fmt.Sprintf("%d users", len(u.byName)) }

// GoString keeps secrets out of %#v.
func (u *Users) GoString() string { return u.String() }

// Verify checks a name and password, both raw bytes, that came from source
// (unmapped). It returns ErrCredentials; ErrBusy when too many wait; or ctx's
// error. A failure costs one hash of every
// scheme in use, whether the user exists or not, so that its time tells
// nothing.
func (u *Users) Verify(ctx context.Context, source netip.Addr, name, password []byte) (Identity, error) {
	return u.verify(ctx, &Attempt{Credentials: Password{User: name, Password: password}, Source: source})
}

func (u *Users) verify(ctx context.Context, a *Attempt) (Identity, error) {
	entry, tag, err := u.known(a)
	if !errors.Is(err, errWaits) {
		return entry.identity(MethodPassword), err
	}
	given, _ := a.Credentials.(Password)
	ok := false
	err = u.queue.Do(ctx, a.counted(), a.suspicion, u.memory, func() {
		ok = u.hash(entry, tag, given.Password)
	})
	switch {
	case errors.Is(err, ErrBusy):
		u.metrics.Busy.Inc()
		return Identity{}, err
	case err != nil:
		return Identity{}, err
	case !ok:
		return Identity{}, ErrCredentials
	}
	return entry.identity(MethodPassword), nil
}

// recall is Authenticate as far as nothing has to be hashed.
func (u *Users) recall(a *Attempt) (Grant, error) {
	entry, _, err := u.known(a)
	return Grant{Identity: entry.identity(MethodPassword)}, err
}

// known is whose credentials they are, nil: nobody's, and what stands for them
// among those that are remembered. The error is nil when they are right for all
// that is known without a hash, and errWaits when it takes one to find out.
func (u *Users) known(a *Attempt) (entry *user, tag [32]byte, err error) {
	given, ok := a.Credentials.(Password)
	if !ok || len(given.User) > MaxName || len(given.Password) > maxPassword {
		return nil, tag, ErrCredentials
	}
	password := given.Password
	entry = u.byName[string(given.User)]
	if entry != nil && (entry.secret == nil || len(password) == 0 || !entry.AllowsFrom(a.Source)) {
		// From here on like a user that is not there. An empty password is
		// nobody's, even where a hash of one was made elsewhere.
		entry = nil
	}
	tag = u.recent.tag(given.User, password, entry)
	if known := u.recent.has(tag); known && entry.welcome() {
		u.metrics.Remembered.Inc()
		return entry, tag, nil
	}
	own := &nobodys
	if entry != nil && entry.secret.kind == kindPlain {
		own = entry.secret
	}
	switch {
	case own.matches(u.key, password) && entry != nil:
		return entry, tag, nil
	case len(u.schemes) == 0:
		return nil, tag, ErrCredentials
	}
	return entry, tag, errWaits
}

// nobodys is a plain password that is nobody's, to spend the time of comparing.
var nobodys = secret{scheme: scheme{kind: kindPlain}, sum: make([]byte, 32)}

// hash checks against the user's secret first, then spends what the other
// schemes cost.
func (u *Users) hash(entry *user, tag [32]byte, password []byte) bool {
	if u.recent.has(tag) && entry.welcome() {
		u.metrics.Remembered.Inc() // a browser's other connections, queued behind the first
		return true
	}
	own := scheme{kind: kindPlain}
	if entry != nil && entry.secret.kind != kindPlain {
		own = entry.secret.scheme
		u.metrics.Hashed.Inc()
		if entry.secret.matches(u.key, password) {
			if entry.welcome() {
				u.recent.add(tag)
			}
			return true
		}
	}
	for _, s := range u.schemes {
		if s.scheme != own {
			u.metrics.Hashed.Inc()
			s.matches(u.key, password)
		}
	}
	return false
}

// welcome reports whether there is such a user, who may come now. The password
// of another is hashed each time, right or wrong, so that the time which it
// takes does not tell that it was right.
func (e *user) welcome() bool { return e != nil && e.Refuses(time.Now()) == nil }

// identity is the user's; nobody's without one.
func (e *user) identity(m Method) Identity {
	if e == nil {
		return Identity{}
	}
	return Identity{User: e.Name, Groups: e.Groups, Method: m, secret: &e.secret, Account: &e.Account}
}

// Method is MethodPassword.
func (u *Users) Method() Method { return MethodPassword }

// Accepts passwords.
func (u *Users) Accepts(k Kind) bool { return k == KindPassword }

// Authenticate is Verify for an attempt with a password.
func (u *Users) Authenticate(ctx context.Context, a *Attempt) (Grant, error) {
	id, err := u.verify(ctx, a)
	return Grant{Identity: id}, err
}

// holdsAtOnce reports whether Holds takes no hash: the first time that somebody is asked
// for whom a predecessor or the state file has told of, a plain password does.
func (u *Users) holdsAtOnce(id Identity) bool {
	entry := u.byName[id.User]
	return entry == nil || entry.secret == nil || id.secret == nil || (*id.secret).kind != kindSealed || entry.secret.sealsAtOnce()
}

// Holds refuses a user who is gone, may not come from there, or has another
// password now.
func (u *Users) Holds(id Identity, source netip.Addr) (Identity, error) {
	entry := u.byName[id.User]
	if entry == nil {
		return Identity{}, ErrCredentials
	}
	now := entry.identity(id.Method)
	if !entry.AllowsFrom(source) || id.secret != nil && !(*id.secret).same(entry.secret, entry.Name) {
		return now, ErrCredentials
	}
	return now, nil
}

// Account is a user's entry, nil when there is none, or no users at all.
func (u *Users) Account(name string) *Account {
	if u == nil {
		return nil
	}
	if entry := u.byName[name]; entry != nil {
		return &entry.Account
	}
	return nil
}

// Accounts calls f for every user's account.
func (u *Users) Accounts(f func(*Account)) {
	for _, entry := range u.byName {
		f(&entry.Account)
	}
}
