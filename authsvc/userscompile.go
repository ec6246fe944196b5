package authsvc

import (
	"errors"
	"fmt"
	"strconv"
)

// What NewUsers makes of the entries and of the lines of a users file.

func (u *Users) addEntry(i int, o *UserEntry, allowPlain bool) error {
	at := fmt.Sprintf("user[%d]", i)
	if o.Where != "" {
		at = o.Where + ": " + at
	}
	if o.Name == "" || len(o.Name) > MaxName {
		return fmt.Errorf("%s.name: a user name has 1 to %d bytes", at, MaxName)
	}
	if old := u.byName[o.Name]; old != nil {
		return fmt.Errorf("%s.name: user %q is there already (%s)", at, o.Name, old.Where)
	}
	entry := &user{Account: o.Account}
	if entry.Where == "" {
		entry.Where = at
	}
	switch {
	case o.PasswordHash != "" && o.Password != "":
		return fmt.Errorf("%s: password and password_hash exclude each other", at)
	case o.PasswordHash != "":
		s, err := parseHash([]byte(o.PasswordHash))
		if err != nil {
			return fmt.Errorf("%s.password_hash: %w", at, err)
		}
		entry.secret = s
	case o.Password != "":
		if !allowPlain {
			return fmt.Errorf("%s.password: a plain password needs auth.allow_plain_passwords", at)
		}
		if IsHash([]byte(o.Password)) {
			return fmt.Errorf("%s.password: %w", at, errForeign([]byte(o.Password)))
		}
		entry.secret = plainSecret(u.key, []byte(o.Password))
	}
	u.byName[o.Name] = entry
	return nil
}

// addFile adds a users file. A [[user]] without a password of its own takes
// the one in the file, and keeps its limits.
func (u *Users) addFile(o *UsersOptions) error {
	open := o.Open
	if open == nil {
		open = openUsers
	}
	list, err := readUsersPath(o.File, open, u.key, o.AllowPlain)
	if err != nil {
		return err
	}
	u.inFile = len(list)
	parse := o.parser()
	for i := range list {
		if err := u.addLine(o.File, &list[i], parse); err != nil {
			return fmt.Errorf("users file %s: line %d: user %q %w", o.File, list[i].line, list[i].name, err)
		}
	}
	return nil
}

func (u *Users) addLine(path string, f *fileUser, parse func(name, attributes string) (Account, error)) error {
	old := u.byName[f.name]
	if old != nil && old.secret != nil {
		return fmt.Errorf("has a password already (%s)", old.Where)
	}
	account := u.defaults
	if f.attributes != "" {
		if old != nil {
			return fmt.Errorf("has attributes here and limits in %s: keep them in one place", old.Where)
		}
		if parse == nil {
			return errors.New("has something behind the hash, where nothing is expected")
		}
		var err error
		if account, err = parse(f.name, f.attributes); err != nil {
			return fmt.Errorf("has a wrong attribute: %w", err)
		}
	}
	account.Name, account.Where, account.InFile = f.name, path+":"+strconv.Itoa(f.line), true
	account.Validity.Disabled = f.disabled
	u.give(&account, f.secret)
	u.byName[f.name].attributes = f.attributes
	return nil
}

// give makes s the password of the account's user. One who is there already
// keeps the limits, and is disabled if either place says so.
func (u *Users) give(a *Account, s *secret) {
	if old := u.byName[a.Name]; old != nil {
		old.secret, old.InFile = s, a.InFile
		old.Validity.Disabled = old.Validity.Disabled || a.Validity.Disabled
		return
	}
	u.byName[a.Name] = &user{Account: *a, secret: s}
}

// collectSchemes picks one secret of each scheme for failed checks to spend
// the same time on, whoever the user was.
func (u *Users) collectSchemes() {
	seen := map[scheme]bool{{kind: kindPlain}: true}
	for _, entry := range u.byName {
		if s := entry.secret; s != nil && !seen[s.scheme] {
			seen[s.scheme] = true
			u.schemes = append(u.schemes, s)
			u.memory = max(u.memory, int64(s.memory)<<10)
		}
	}
}
