package config

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"cleversocks/authsvc"
)

// masked stands for a secret wherever one would be shown.
const masked = "********"

// Secret is text that is never shown: every way of printing, logging or
// marshalling it yields a mask. Only Reveal returns it.
type Secret struct {
	// A pointer, because fmt prints the unexported fields of a struct around
	// us without asking our methods: it then meets an address, not the text.
	text *string
}

// NewSecret keeps a copy of text, which may live in memory that the caller
// wipes afterwards.
func NewSecret(text string) Secret {
	text = strings.Clone(text)
	return Secret{text: &text}
}

// Reveal returns the text, "" for the zero Secret.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsSet says whether there is a secret, even an empty one.
func (s Secret) IsSet() bool { return s.text != nil }

// Equal compares in constant time for equal lengths.
func (s Secret) Equal(o Secret) bool {
	return s.IsSet() == o.IsSet() &&
		subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(o.Reveal())) == 1
}

// String is a mask, or "" when there is no secret.
func (s Secret) String() string {
	if !s.IsSet() {
		return ""
	}
	return masked
}

// GoString is String's mask for %#v.
func (s Secret) GoString() string { return `config.Secret("` + s.String() + `")` }

// MarshalText is String's mask for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue is String's mask for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// UnmarshalText keeps a copy of text.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

func (Secret) accepts() string  { return "a string" }
func (Secret) sensitive()       {}
func (s Secret) reveal() string { return s.Reveal() }

// nobodysHash is the hash of a password that nobody knows.
var nobodysHash = sync.OnceValue(func() string { return authsvc.Hash([]byte(rand.Text())) })

// unmask takes a mask in the file, which check has written there, for a secret
// that nobody knows: the settings are as they were, and nobody comes in by it.
// In a URL it stays a mask, which the other side refuses.
func (r *run) unmask(k *Key, path string) {
	o := r.cfg.origins[path]
	if o.layer != fromFile {
		return // somebody's password may look like one
	}
	text := "%s: %s is a mask, as check writes it, and no secret: nobody can log in with it until the secret stands there (check --show-secrets)"
	switch v := k.Value.(type) {
	case *Secret:
		if v.Reveal() != masked {
			return
		}
		if *v = NewSecret(rand.Text()); k.Name == "password_hash" {
			*v = NewSecret(nobodysHash())
		}
	case *StoreURL:
		if !strings.Contains(v.secret.Reveal(), ":"+masked+"@") {
			return
		}
	case *[]ProxyURL:
		if !slices.ContainsFunc(*v, func(u ProxyURL) bool { return strings.Contains(u.secret.Reveal(), ":"+masked+"@") }) {
			return
		}
	default:
		return
	}
	r.cfg.Warnings = append(r.cfg.Warnings, fmt.Sprintf(text, o.where, path))
}
