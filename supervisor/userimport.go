package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics/admin"
)

// checkImport refuses what is no import, before anything is hashed for it.
func checkImport(i *admin.UserImport) error {
	switch {
	case len(i.Users) == 0:
		return admin.BadInput("users: there are none")
	case len(i.Users) > admin.MaxImport:
		return admin.BadInput(fmt.Sprintf("users: %d are more than the %d of one import", len(i.Users), admin.MaxImport))
	case !slices.Contains([]string{"", admin.ExistingRefuse, admin.ExistingKeep, admin.ExistingChange}, i.Existing):
		return admin.BadInput("existing: refuse, keep or change")
	}
	seen := make(map[string]int, len(i.Users))
	passwords := 0
	for n, u := range i.Users {
		if before, twice := seen[u.Name]; twice {
			return admin.BadInput(fmt.Sprintf("users[%d]: user %q is users[%d] too", n, text(u.Name), before))
		}
		seen[u.Name] = n
		if u.Password != nil {
			passwords++
		}
	}
	if passwords > admin.MaxImportPasswords {
		return admin.BadInput(fmt.Sprintf("users: more than %d passwords: give the rest as password_hash, as `cleversocks user import` does", admin.MaxImportPasswords))
	}
	return nil
}

// importUsers adds and changes many users of the users file in one edit.
func (o *operator) importUsers(ctx context.Context, i admin.UserImport) (done admin.UsersImported, err error) {
	if err := checkImport(&i); err != nil {
		return done, err
	}
	names := make([]string, len(i.Users))
	changes := make([]func(*authsvc.UserLine) error, len(i.Users))
	for n, u := range i.Users {
		names[n] = u.Name
		if changes[n], err = o.importOne(ctx, u); err != nil {
			return done, fmt.Errorf("users[%d]: %w", n, err)
		}
	}
	edit := &userEdit{asked: "import", change: func(content []byte) ([]byte, error) {
		done = admin.UsersImported{} // it may be called again
		return authsvc.ImportUsers(content, names, func(n int, l *authsvc.UserLine, is bool) (bool, error) {
			return importLine(&i, &i.Users[n], changes[n], &done, l, is)
		})
	}}
	if err := o.edit(ctx, edit); err != nil {
		return admin.UsersImported{}, editError(err)
	}
	done.Closed = edit.ended
	o.options.Logger.LogAttrs(ctx, slog.LevelInfo, "users imported", slog.Int("added", done.Added), slog.Int("changed", done.Changed), slog.Int("kept", done.Kept), slog.Int("sessions_ended", done.Closed))
	o.events.Publish("user", admin.Event{Time: time.Now(), Change: "imported"})
	return done, nil
}

// importOne is what an import asks for of one user.
func (o *operator) importOne(ctx context.Context, u admin.NewUser) (func(*authsvc.UserLine) error, error) {
	if err := authsvc.CheckUserName(u.Name); err != nil {
		return nil, admin.BadInput("name: " + err.Error())
	}
	if a := o.users.Load().Account(u.Name); a != nil && !a.InFile && !o.lacksPassword(u.Name) {
		return nil, admin.Conflict(fmt.Sprintf("user %q is in %s, which is for you to edit", text(u.Name), a.Where))
	}
	return o.lineChange(ctx, u.Name, u.UserChange)
}

// importLine makes an import's change of one line, and counts it.
func importLine(i *admin.UserImport, u *admin.NewUser, change func(*authsvc.UserLine) error, done *admin.UsersImported, l *authsvc.UserLine, is bool) (bool, error) {
	switch {
	case !is && u.Password == nil && u.PasswordHash == nil:
		return false, admin.BadInput(fmt.Sprintf("user %q is new, and has neither password nor password_hash", text(u.Name)))
	case !is:
		done.Added++
	case i.Existing == admin.ExistingKeep:
		done.Kept++
		return false, nil
	case i.Existing == admin.ExistingChange:
		done.Changed++
	default:
		return false, fmt.Errorf("user %q %w", u.Name, authsvc.ErrUserExists)
	}
	return true, change(l)
}

// resetUsage forgets what a user has moved of the quota.
func (o *operator) resetUsage(ctx context.Context, name string) (admin.User, error) {
	a := o.users.Load().Account(name)
	switch {
	case a == nil:
		return admin.User{}, admin.NotFound("there is no such user")
	case a.QuotaBytes <= 0:
		return admin.User{}, admin.Conflict(fmt.Sprintf("user %q has no quota", text(name)))
	}
	if o.guards.fleet != nil {
		if err := o.guards.fleet.ResetQuota(ctx, a); err != nil {
			return admin.User{}, admin.Busy("nothing was reset: the shared state does not answer: " + err.Error())
		}
	}
	o.guards.Quotas.Reset(name)
	o.options.Logger.LogAttrs(ctx, slog.LevelInfo, "usage of a user's quota is forgotten", slog.String("user", name))
	o.events.Publish("user", admin.Event{Time: time.Now(), User: text(name), Change: "reset"})
	return o.oneUser(ctx, name)
}
