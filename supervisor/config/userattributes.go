package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	gotoml "github.com/pelletier/go-toml/v2"

	"cleversocks/authsvc"
)

// ownAttribute is how attributes of a users file begin that belong to the
// operator's own programs: they are kept, and mean nothing here.
const ownAttribute = "x-"

// notInFile are the keys of a [[user]] that a line of the users file says in
// another way: by its name, its hash, and the mark in front of the hash.
var notInFile = []string{"name", "password_hash", "password", "password_file", "disabled"}

// attributeKeys are the rows of what a line of the users file may have behind
// its hash.
func (u *User) attributeKeys() []Key {
	return slices.DeleteFunc(u.keys(), func(k Key) bool { return slices.Contains(notInFile, k.Name) })
}

// AttributeNames are the names of what a user in the users file can have.
func AttributeNames() []string {
	var names []string
	for _, k := range new(User).attributeKeys() {
		head, _, _ := strings.Cut(k.Name, ".")
		if !slices.Contains(names, head) {
			names = append(names, head)
		}
	}
	return names
}

// Attributes are what stands behind a hash in the users file: the values of a
// [[user]], as TOML has them, by their names.
type Attributes map[string]any

var errBraces = errors.New("is not a list such as max_connections = 5, groups = [\"staff\"]")

// ParseAttributes reads the text behind a hash, which is a TOML inline table
// without its braces. It judges the form alone.
func ParseAttributes(text string) (Attributes, error) {
	var doc struct{ A Attributes }
	if err := gotoml.Unmarshal([]byte("A = {"+text+"}"), &doc); err != nil {
		return nil, errBraces
	}
	if strings.Contains(withoutStrings(text), "#") {
		return nil, errBraces // a comment would hide what follows a brace
	}
	if doc.A == nil {
		doc.A = Attributes{}
	}
	return doc.A, nil
}

// withoutStrings is TOML text without its strings.
func withoutStrings(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		quote := text[i]
		if quote != '"' && quote != '\'' {
			b.WriteByte(quote)
			continue
		}
		for i++; i < len(text) && text[i] != quote; i++ {
			if quote == '"' && text[i] == '\\' {
				i++
			}
		}
	}
	return b.String()
}

// user judges attributes, as a [[user]]'s are, and returns them as one. set
// has the full names of those that are there.
func (a Attributes) user() (u User, set map[string]origin, err error) {
	if _, there := a["disabled"]; there {
		return u, nil, errors.New(`disabled: unknown key; in a users file "!" in front of the hash disables a user`)
	}
	keys := u.attributeKeys()
	tree := &node{}
	tree.add(keys)
	known := maps.Clone(a)
	maps.DeleteFunc(known, func(name string, _ any) bool { return strings.HasPrefix(name, ownAttribute) })
	r := &run{cfg: &Config{origins: make(map[string]origin)}}
	r.keep(known, tree, "", source{origin: func(string) origin { return origin{layer: fromFile} }, known: AttributeNames()})
	for _, k := range keys {
		if _, there := r.cfg.origins[k.Name]; !there && k.Default != "" {
			r.assign(&k, k.Name, nil)
		}
	}
	switch {
	case len(r.list) > 0:
		return u, nil, errors.New(r.list[0].String())
	case !u.ValidUntil.IsZero() && !u.ValidUntil.After(u.ValidFrom.Time):
		return u, nil, errors.New("valid_until: is not after valid_from")
	}
	for _, list := range []struct {
		key   string
		empty bool
	}{{"from", len(u.From) == 0}, {"egress", len(u.Egress) == 0}, {"hours", len(u.Hours) == 0}} {
		if _, there := r.cfg.origins[list.key]; there && list.empty {
			return u, nil, fmt.Errorf("%s: is an empty list: leave it out if nothing is meant to be restricted", list.key)
		}
	}
	return u, r.cfg.origins, nil
}

// Change sets and unsets attributes. Of a table, such as quota, what is not set
// stays.
func (a Attributes) Change(set Attributes, unset []string) {
	for _, name := range unset {
		delete(a, name)
	}
	for name, v := range set {
		old, isTable := a[name].(map[string]any)
		fresh, alsoTable := v.(map[string]any)
		if !isTable || !alsoTable {
			a[name] = v
			continue
		}
		maps.Copy(old, fresh)
	}
}

// Check is nil for attributes that a user can have.
func (a Attributes) Check() error {
	_, _, err := a.user()
	return err
}

// String is the text that ParseAttributes reads, the known ones first, in the
// order of the reference.
func (a Attributes) String() string {
	names := AttributeNames()
	place := func(name string) int {
		if i := slices.Index(names, name); i >= 0 {
			return i
		}
		return len(names)
	}
	ordered := slices.SortedFunc(maps.Keys(a), func(x, y string) int {
		return cmp.Or(cmp.Compare(place(x), place(y)), strings.Compare(x, y))
	})
	var lines strings.Builder
	for _, name := range ordered {
		if err := gotoml.NewEncoder(&lines).SetTablesInline(true).Encode(map[string]any{name: a[name]}); err != nil {
			panic(err) // it came from TOML, or is of the types of UserChange
		}
	}
	return strings.Join(strings.FieldsFunc(lines.String(), func(r rune) bool { return r == '\n' }), ", ")
}

// account is the settings of a user of the users file whose line has
// attributes.
func (c *Config) account(attributes string) (authsvc.Account, error) {
	a, err := ParseAttributes(attributes)
	if err != nil {
		return authsvc.Account{}, err
	}
	u, set, err := a.user()
	if err != nil {
		return authsvc.Account{}, err
	}
	account := u.account()
	c.withDefaults(&account, func(key string) bool { _, there := set[key]; return there })
	return account, nil
}
