package authsvc

import (
	"fmt"
	"regexp"
)

// foreignHashes are the forms of hashes that other programs make, with their
// names. The first that fits counts.
var foreignHashes = []struct {
	form *regexp.Regexp
	name string // $1: what the form's group holds
}{
	{regexp.MustCompile(`^\$argon2id\$`), "a malformed argon2id hash"},
	{regexp.MustCompile(`^\$(argon2(?:i|d)?)\$`), "a hash of $1: argon2id is expected"},
	{regexp.MustCompile(`^\$2[abxy]?\$`), "a malformed bcrypt hash"},
	{regexp.MustCompile(`^\$1\$`), "an md5crypt hash ($$1$$)"},
	{regexp.MustCompile(`^\$apr1\$`), "an Apache MD5 hash ($$apr1$$)"},
	{regexp.MustCompile(`^\$3\$`), "an NTHASH ($$3$$)"},
	{regexp.MustCompile(`^\$5\$`), "a SHA-256 crypt hash ($$5$$)"},
	{regexp.MustCompile(`^\$6\$`), "a SHA-512 crypt hash ($$6$$)"},
	{regexp.MustCompile(`^\$7\$`), "an scrypt hash ($$7$$)"},
	{regexp.MustCompile(`^\$y\$`), "a yescrypt hash ($$y$$)"},
	{regexp.MustCompile(`^\$gy\$`), "a gost-yescrypt hash ($$gy$$)"},
	{regexp.MustCompile(`^\$md5[$,]`), "a Sun MD5 hash ($$md5)"},
	{regexp.MustCompile(`^\$sha1\$`), "a SHA-1 crypt hash ($$sha1$$)"},
	{regexp.MustCompile(`^\$([A-Za-z0-9_.-]{1,32})[$,]`), "a hash of the scheme $$$1$$"},
	{regexp.MustCompile(`^\{([A-Za-z0-9_.-]{1,32})\}`), "a hash of the scheme {$1}, as directories have them"},
	{regexp.MustCompile(`^(SCRAM-SHA-[0-9]+)\$`), "a $1 verifier"},
	{regexp.MustCompile(`^(pbkdf2[a-z0-9_:]*|scrypt[0-9:]*|bcrypt[a-z0-9_]*|argon2)\$`), "a hash of the scheme $1, as web frameworks have them"},
	{regexp.MustCompile(`^\*[0-9A-F]{40}$`), "a MySQL password hash"},
	{regexp.MustCompile(`^md5[0-9a-f]{32}$`), "a PostgreSQL MD5 hash"},
	{regexp.MustCompile(`^(?:\*[01]?|!!?|!!?[$*].*|\*LK\*.*|\*NP\*)$`), "what /etc/shadow says of an account without a password or a locked one"},
	{regexp.MustCompile(`^_[./0-9A-Za-z]{19}$`), "a BSDi crypt hash"},
}

// HashName is what a value looks like if it looks like a hash, of whatever
// scheme: "a SHA-512 crypt hash ($6$)". It is "" for a password, so that a
// hash that cannot be checked never becomes a password that lets in whoever
// has read it. The value itself is not repeated.
func HashName(value []byte) string {
	for _, f := range foreignHashes {
		if m := f.form.FindSubmatchIndex(value); m != nil {
			return string(f.form.Expand(nil, []byte(f.name), value, m))
		}
	}
	return ""
}

// IsHash reports whether a value is, or claims to be, a hash and no password.
func IsHash(value []byte) bool { return HashName(value) != "" }

// errForeign refuses a hash that cannot be checked, by its name.
func errForeign(value []byte) error {
	if name := HashName(value); name != "" {
		return fmt.Errorf("this is %s, which cannot be checked: argon2id ($argon2id$v=19$...) and bcrypt ($2b$...) can, and `cleversocks hash` makes one", name)
	}
	return errNoHash
}
