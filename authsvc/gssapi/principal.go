package gssapi

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Mapping turns principals into users, and the SIDs of their groups into
// groups. It never changes.
type Mapping struct {
	lower  bool
	strip  []string
	exact  map[string]string
	forms  []form
	groups map[string]string
}

type form struct {
	principal *regexp.Regexp
	user      string
}

// MappingOptions are auth.gssapi's rules about names.
type MappingOptions struct {
	// StripRealms are the realms whose users are known without it.
	StripRealms []string
	// Users are "PRINCIPAL = USER" or "/REGULAR EXPRESSION/ = USER", where
	// the user may have $1 in it. The whole principal has to match. The first
	// that fits counts; an exact one before the others.
	Users []string
	// LowerCase has the case of a principal's name not matter, as to Active
	// Directory, which puts into a ticket what the user has typed: it is made
	// lower-case first. The realm's case matters.
	LowerCase bool
	// Groups are "SID = GROUP".
	Groups []string
}

// NewMapping compiles the rules. The error names the one that is wrong.
func NewMapping(o MappingOptions) (*Mapping, error) {
	m := &Mapping{lower: o.LowerCase, strip: o.StripRealms, exact: map[string]string{}, groups: map[string]string{}}
	for _, rule := range o.Users {
		i := strings.LastIndex(rule, "=")
		if i < 0 {
			return nil, fmt.Errorf("%q: PRINCIPAL = USER is expected", rule)
		}
		from, user := strings.TrimSpace(rule[:i]), strings.TrimSpace(rule[i+1:])
		if from == "" || user == "" {
			return nil, fmt.Errorf("%q: PRINCIPAL = USER is expected", rule)
		}
		if len(from) > 2 && from[0] == '/' && from[len(from)-1] == '/' {
			re, err := regexp.Compile(`\A(?:` + from[1:len(from)-1] + `)\z`)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", rule, err)
			}
			m.forms = append(m.forms, form{re, user})
			continue
		}
		if i := strings.LastIndexByte(from, '@'); i > 0 {
			from = m.cased(from[:i]) + from[i:]
		}
		m.exact[from] = user
	}
	for _, rule := range o.Groups {
		sid, group, ok := strings.Cut(rule, "=")
		sid, group = strings.TrimSpace(sid), strings.TrimSpace(group)
		if !ok || group == "" || !strings.HasPrefix(sid, "S-1-") {
			return nil, fmt.Errorf("%q: SID = GROUP is expected, as in \"S-1-5-21-1-2-3-513 = staff\"", rule)
		}
		m.groups[sid] = group
	}
	return m, nil
}

// user is the name of a principal's user.
func (m *Mapping) user(principal, realm string) string {
	principal = m.cased(principal)
	full := principal + "@" + realm
	if user, ok := m.exact[full]; ok {
		return user
	}
	for _, f := range m.forms {
		if match := f.principal.FindStringSubmatchIndex(full); match != nil {
			return string(f.principal.ExpandString(nil, f.user, full, match))
		}
	}
	if slices.Contains(m.strip, realm) {
		return principal
	}
	return full
}

// cased is a name of a principal in the case that counts.
func (m *Mapping) cased(name string) string {
	if m.lower {
		return strings.ToLower(name)
	}
	return name
}

// groupsOf are the groups of some SIDs, each once.
func (m *Mapping) groupsOf(sids []string) []string {
	var out []string
	for _, sid := range sids {
		if g := m.groups[sid]; g != "" && !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}
