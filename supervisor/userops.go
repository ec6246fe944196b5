package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics"
	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
)

// oneUser is a user of the settings.
func (o *operator) oneUser(ctx context.Context, name string) (admin.User, error) {
	a := o.users.Load().Account(name)
	if a == nil {
		return admin.User{}, admin.NotFound("there is no such user")
	}
	return o.describe(ctx, []*authsvc.Account{a})[0], nil
}

// addUser adds a user to the users file.
func (o *operator) addUser(ctx context.Context, u admin.NewUser) (admin.UserChanged, error) {
	none := admin.UserChanged{}
	if err := authsvc.CheckUserName(u.Name); err != nil {
		return none, admin.BadInput("name: " + err.Error())
	}
	if a := o.users.Load().Account(u.Name); a != nil && !a.InFile && !o.lacksPassword(u.Name) {
		return none, admin.Conflict(fmt.Sprintf("user %q is there already (%s)", u.Name, a.Where))
	}
	if u.Password == nil && u.PasswordHash == nil {
		return none, admin.BadInput("password: give one, or password_hash")
	}
	change, err := o.lineChange(ctx, u.Name, u.UserChange)
	if err != nil {
		return none, err
	}
	return o.apply(ctx, u.Name, "added", &userEdit{asked: whatChanges(u.UserChange), change: func(content []byte) ([]byte, error) {
		l := authsvc.UserLine{Name: u.Name}
		if err := change(&l); err != nil {
			return nil, err
		}
		return authsvc.AddUser(content, l)
	}})
}

// lacksPassword says whether the settings have a user who gets the password
// from the users file.
func (o *operator) lacksPassword(name string) bool {
	return slices.Contains(o.users.Load().Powerless(), name)
}

// changeUser changes a user of the users file.
func (o *operator) changeUser(ctx context.Context, name string, c admin.UserChange) (admin.UserChanged, error) {
	if err := o.editable(name); err != nil {
		return admin.UserChanged{}, err
	}
	change, err := o.lineChange(ctx, name, c)
	if err != nil {
		return admin.UserChanged{}, err
	}
	return o.apply(ctx, name, "changed", &userEdit{asked: whatChanges(c), change: func(content []byte) ([]byte, error) {
		return authsvc.ChangeUser(content, name, change)
	}})
}

// removeUser takes a user out of the users file.
func (o *operator) removeUser(ctx context.Context, name string) (admin.UserChanged, error) {
	if err := o.editable(name); err != nil {
		return admin.UserChanged{}, err
	}
	return o.apply(ctx, name, "removed", &userEdit{removes: name, change: func(content []byte) ([]byte, error) {
		return authsvc.RemoveUser(content, name)
	}})
}

// editable refuses users who are elsewhere than in the users file. One who is
// unknown may have been written there by hand a moment ago.
func (o *operator) editable(name string) error {
	a := o.users.Load().Account(name)
	if a != nil && !a.InFile {
		return admin.Conflict(fmt.Sprintf("user %q is in %s, which is for you to edit: change it there, and reload", text(name), a.Where))
	}
	return nil
}

// apply makes an edit, and tells what came of it.
func (o *operator) apply(ctx context.Context, name, what string, e *userEdit) (admin.UserChanged, error) {
	if err := o.edit(ctx, e); err != nil {
		return admin.UserChanged{}, editError(err)
	}
	o.options.Logger.LogAttrs(ctx, slog.LevelInfo, "users edited", slog.String("user", name), slog.String("what", what), slog.String("changes", e.asked), slog.Int("sessions_ended", e.ended))
	o.events.Publish("user", admin.Event{Time: time.Now(), User: text(name), Change: what})
	done := admin.UserChanged{Closed: e.ended}
	if u, err := o.oneUser(ctx, name); err == nil {
		done.User = &u
	}
	return done, nil
}

// whatChanges names what a change is about, for the log: no values.
func whatChanges(c admin.UserChange) string {
	var names []string
	if c.Password != nil || c.PasswordHash != nil {
		names = append(names, "password")
	}
	if c.Disabled != nil {
		names = append(names, map[bool]string{true: "disabled", false: "enabled"}[*c.Disabled])
	}
	if set, err := attributesOf(c.UserLimits); err == nil {
		names = append(names, slices.Sorted(maps.Keys(set))...)
	}
	return strings.Join(append(names, c.Unset...), ",")
}

// editError says which errors are the question's.
func editError(err error) error {
	switch {
	case errors.Is(err, authsvc.ErrUserExists), errors.Is(err, errNoUsersFile), errors.Is(err, authsvc.ErrChangedMeanwhile), errors.Is(err, config.ErrInvalid):
		return admin.Conflict(err.Error())
	case errors.Is(err, authsvc.ErrNoUser):
		return admin.NotFound(err.Error())
	case errors.Is(err, errAttributes):
		return admin.BadInput(err.Error())
	}
	return err
}

// errAttributes is wrapped by what is wrong with limits.
var errAttributes = errors.New("limits")

// lineChange turns what is asked for into a change of a user's line. A password
// is hashed here, in turn with those that are checked.
func (o *operator) lineChange(ctx context.Context, name string, c admin.UserChange) (func(*authsvc.UserLine) error, error) {
	hash, err := o.hashOf(ctx, c)
	if err != nil {
		return nil, err
	}
	set, err := attributesOf(c.UserLimits)
	if err != nil {
		return nil, err
	}
	a := o.users.Load().Account(name)
	if a != nil && len(set)+len(c.Unset) > 0 && !strings.HasPrefix(a.Where, o.config().Auth.UsersFile+":") {
		return nil, admin.Conflict(fmt.Sprintf("the limits of user %q are in %s, which is for you to edit: change them there, and reload", text(name), a.Where))
	}
	for _, name := range c.Unset {
		if !slices.Contains(config.AttributeNames(), name) {
			return nil, admin.BadInput(fmt.Sprintf("unset: there is no %q; there are %s", text(name), strings.Join(config.AttributeNames(), ", ")))
		}
	}
	return func(l *authsvc.UserLine) error {
		if hash != "" {
			l.Hash = hash
		}
		if c.Disabled != nil {
			l.Disabled = *c.Disabled
		}
		if len(set) == 0 && len(c.Unset) == 0 {
			return nil // what stands there stays as it is
		}
		attributes, err := config.ParseAttributes(l.Attributes)
		if err != nil {
			return fmt.Errorf("user %q: what is behind the hash %w", l.Name, err)
		}
		attributes.Change(set, c.Unset)
		if err := attributes.Check(); err != nil {
			return fmt.Errorf("%w: %w", errAttributes, err)
		}
		l.Attributes = attributes.String()
		return nil
	}, nil
}

// hashOf is the hash that a change asks for; "": none.
func (o *operator) hashOf(ctx context.Context, c admin.UserChange) (string, error) {
	switch {
	case c.Password != nil && c.PasswordHash != nil:
		return "", admin.BadInput("password and password_hash exclude each other")
	case c.PasswordHash != nil:
		if err := authsvc.CheckHash([]byte(*c.PasswordHash)); err != nil {
			return "", admin.BadInput("password_hash: " + err.Error())
		}
		return *c.PasswordHash, nil
	case c.Password == nil:
		return "", nil
	}
	if err := authsvc.CheckPassword([]byte(*c.Password)); err != nil {
		return "", admin.BadInput("password: " + err.Error())
	}
	hash, err := o.hashing.Hash(ctx, []byte(*c.Password))
	if errors.Is(err, authsvc.ErrBusy) {
		return "", admin.Busy("too many passwords are being checked: try again in a moment")
	}
	return hash, err
}

// attributesOf are the limits that are asked for, as the users file has them.
func attributesOf(l admin.UserLimits) (config.Attributes, error) {
	body, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	var set config.Attributes
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	for key, n := range map[string]*int{"max_connections": l.MaxConnections, "max_addresses": l.MaxAddresses} {
		if n != nil {
			set[key] = int64(*n) // JSON has decimal numbers alone
		}
	}
	for key, t := range map[string]*time.Time{"valid_from": l.ValidFrom, "valid_until": l.ValidUntil} {
		if t != nil {
			set[key] = *t
		}
	}
	return set, nil
}

// listUsers is every user of the settings, by name.
func (o *operator) listUsers(ctx context.Context) []admin.User {
	var accounts []*authsvc.Account
	o.users.Load().Accounts(func(a *authsvc.Account) { accounts = append(accounts, a) })
	slices.SortFunc(accounts, func(a, b *authsvc.Account) int { return strings.Compare(a.Name, b.Name) })
	o.syncQuotas(ctx)
	list := o.describe(ctx, accounts)
	byName := make(map[string]*admin.User, len(list))
	for i, a := range accounts {
		byName[a.Name] = &list[i]
	}
	o.addFleet(ctx, byName)
	return list
}

// describe are accounts with what their users have and had.
func (o *operator) describe(ctx context.Context, accounts []*authsvc.Account) []admin.User {
	list, byName, byText := make([]admin.User, len(accounts)), make(map[string]*admin.User, len(accounts)), make(map[string]*admin.User, len(accounts))
	for i, a := range accounts {
		list[i] = userOf(a)
		byName[a.Name], byText[text(a.Name)] = &list[i], &list[i]
	}
	add := func(u *admin.User, in, out int64) {
		if u != nil {
			u.Connections++
			u.BytesIn += in
			u.BytesOut += out
		}
	}
	for _, r := range o.group.Sessions() {
		if !r.Handshake {
			add(byName[r.User], r.BytesIn, r.BytesOut)
		}
	}
	var filter admin.SessionFilter
	if len(list) == 1 {
		filter.User = list[0].Name
	}
	for _, s := range o.predecessors.sessions(ctx, filter) {
		if !s.Handshake {
			add(byText[s.User], s.BytesIn, s.BytesOut)
		}
	}
	for _, used := range o.guards.Quotas.List() {
		u := byName[used.User]
		if u == nil || u.Quota == nil {
			continue
		}
		u.Quota.Used, u.Quota.Remaining = used.Used, max(u.Quota.Limit-used.Used, 0)
		if !used.Since.IsZero() {
			u.Quota.Until = &used.Until
		}
		if u.Quota.Remaining == 0 && u.State == stateOK {
			u.State = "quota"
		}
	}
	return list
}

// stateOK is the state of a user who may use the proxy.
const stateOK = "ok"

func userOf(a *authsvc.Account) admin.User {
	u := admin.User{
		Name: text(a.Name), State: stateOK, Disabled: a.Validity.Disabled, Groups: a.Groups, From: prefixTexts(a.From),
		MaxConnections: a.MaxConnections, MaxAddresses: a.MaxAddresses, Quota: quotaOf(a), Egress: prefixTexts(a.Egress),
		Note: text(a.Note), Where: a.Where, InFile: a.InFile,
	}
	if refusal := a.Refuses(time.Now()); refusal != nil {
		u.State = string(refusal.Reason)
	}
	if a.Up > 0 || a.Down > 0 {
		u.Bandwidth = &admin.Bandwidth{Up: a.Up, Down: a.Down}
	}
	if t := a.Validity.From; !t.IsZero() {
		u.ValidFrom = &t
	}
	if t := a.Validity.Until; !t.IsZero() {
		u.ValidUntil = &t
	}
	for _, h := range a.Validity.Hours {
		u.Hours = append(u.Hours, h.String())
	}
	return u
}

func prefixTexts(list []netip.Prefix) (texts []string) {
	for _, p := range list {
		texts = append(texts, config.Prefix{Prefix: p}.String())
	}
	return texts
}

func quotaOf(a *authsvc.Account) *admin.Quota {
	if a.QuotaBytes <= 0 {
		return nil
	}
	return &admin.Quota{Limit: a.QuotaBytes, Remaining: a.QuotaBytes}
}

// Groups are the members of each group of the settings.
func Groups(cfg *config.Config) (map[string][]string, error) {
	users, err := authsvc.NewUsers(cfg.UsersOptions(nil, &metrics.New().Auth))
	if err != nil {
		return nil, err
	}
	groups := make(map[string][]string)
	users.Accounts(func(a *authsvc.Account) {
		for _, g := range a.Groups {
			groups[g] = append(groups[g], a.Name)
		}
	})
	return groups, nil
}
