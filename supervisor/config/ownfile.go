package config

import (
	"fmt"
	"os"
	"strings"
)

// finishSecrets warns of a configuration file that holds secrets and that
// every user of the machine may read. It is a warning where other files are
// refused: a daemon that ran with such a file yesterday is to start today.
func (c *Config) finishSecrets(f *finisher) {
	for _, key := range c.inlineSecrets() {
		o := c.originOf(key)
		if o.layer != fromFile || o.line == 0 {
			continue
		}
		path := strings.TrimSuffix(o.fileLine(), fmt.Sprintf(":%d", o.line))
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return // a pipe has no other readers
		}
		if err := checkSecretPath(path, c.Secrets.AllowWorldReadable); err != nil {
			f.warn("%s: %s stands in the file itself, and %v", o.where, key, err)
		}
		return
	}
}

// inlineSecrets are the keys that hold a secret themselves, where another key
// would name a file for it.
func (c *Config) inlineSecrets() []string {
	var keys []string
	if c.Auth.Password.Reveal() != "" {
		keys = append(keys, passwordKey)
	}
	for i := range c.Users {
		for _, key := range []string{".password", ".password_hash"} {
			if at := element("user", i) + key; c.isSet(at) {
				keys = append(keys, at)
			}
		}
	}
	for i, u := range c.Upstreams {
		for key, list := range map[string][]ProxyURL{".via": u.Via, ".members": u.Members} {
			for _, p := range list {
				if url := p.secret.Reveal(); strings.Contains(url, "@") && !strings.HasPrefix(url, "file:") {
					keys = append(keys, element("upstream", i)+key)
				}
			}
		}
	}
	return keys
}
