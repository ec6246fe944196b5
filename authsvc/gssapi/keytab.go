package gssapi

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/go-krb5/krb5/keytab"
	"github.com/go-krb5/krb5/types"
)

// maxKeytab bounds what is read of a keytab.
const maxKeytab = 4 << 20

// Keytab holds the keys of the services that this proxy is. It never changes.
// It prints as its number of keys.
type Keytab struct{ entries []keytabEntry }

type keytabEntry struct {
	realm string
	name  []string
	kvno  uint32
	key   types.EncryptionKey
}

// Entry is a key as people may see it.
type Entry struct {
	Principal string // "rcmd/proxy.example.com@EXAMPLE.COM"
	KVNO      uint32
	EType     string
	Usable    bool // false: an encryption type that is not accepted, as RC4
}

// String is an entry as klist would show it.
func (e Entry) String() string {
	text := fmt.Sprintf("%s, version %d, %s", e.Principal, e.KVNO, e.EType)
	if !e.Usable {
		text += " (not accepted)"
	}
	return text
}

// ReadKeytab reads a keytab, of which open gives the bytes; nil: the file
// system. The error says what is wrong and has no key in it.
func ReadKeytab(path string, open func(string) (io.ReadCloser, error)) (k *Keytab, err error) {
	if open == nil {
		open = func(path string) (io.ReadCloser, error) { return os.Open(path) } //nolint:gosec // the operator's settings name the file
	}
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeytab+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(data) > maxKeytab {
		return nil, errors.New("too large for a keytab")
	}
	return parseKeytab(data)
}

// parseKeytab lets the library read a keytab, which may panic on a damaged one.
func parseKeytab(data []byte) (k *Keytab, err error) {
	defer func() {
		if recover() != nil {
			k, err = nil, errors.New("not a keytab, or a damaged one")
		}
	}()
	if len(data) < 3 {
		return nil, errors.New("not a keytab, or an empty one")
	}
	var kt keytab.Keytab
	if err := kt.Unmarshal(data); err != nil {
		return nil, errors.New("not a keytab, or a damaged one")
	}
	k = &Keytab{}
	for _, e := range kt.Entries {
		k.entries = append(k.entries, keytabEntry{realm: e.Principal.Realm, name: e.Principal.Components, kvno: e.KVNO, key: e.Key})
	}
	if len(k.entries) == 0 {
		return nil, errors.New("holds no key")
	}
	return k, nil
}

// Entries are the keys as people may see them, in the file's order.
func (k *Keytab) Entries() []Entry {
	out := make([]Entry, 0, len(k.entries))
	for _, e := range k.entries {
		out = append(out, Entry{
			Principal: strings.Join(e.name, "/") + "@" + e.realm, KVNO: e.kvno,
			EType: etypeName(e.key.KeyType), Usable: etypes[e.key.KeyType] != "",
		})
	}
	return out
}

func etypeName(id int32) string {
	if name := etypes[id]; name != "" {
		return name
	}
	switch id {
	case 16:
		return "des3-cbc-sha1"
	case 23:
		return "rc4-hmac"
	}
	return "etype " + strconv.Itoa(int(id))
}

// Warnings say what an operator should know of a keytab: services that are
// needed and have no key, and principals whose newest keys nobody may use. Of
// the optional services only the latter.
func (k *Keytab) Warnings(needed, optional []string) (out []string) {
	for _, service := range needed {
		if len(k.newest(service)) == 0 {
			out = append(out, fmt.Sprintf("the keytab has no key of the service %q: nobody can log in with it", service))
		}
	}
	for _, service := range append(slices.Clone(needed), optional...) {
		for _, e := range k.newest(service) {
			if !e.Usable {
				out = append(out, fmt.Sprintf("the keytab's keys of %s, version %d, are of RC4 or DES alone, which are not accepted: add AES keys (aes256-cts-hmac-sha1-96)", e.Principal, e.KVNO))
			}
		}
	}
	return out
}

// newest is an entry for each principal of a service: of its newest version
// the best one, since a KDC seals with that version alone.
func (k *Keytab) newest(service string) (out []Entry) {
	at := map[string]int{}
	for i, e := range k.Entries() {
		if len(k.entries[i].name) == 0 || !strings.EqualFold(k.entries[i].name[0], service) {
			continue
		}
		j, known := at[e.Principal]
		switch {
		case !known:
			at[e.Principal] = len(out)
			out = append(out, e)
		case e.KVNO > out[j].KVNO, e.KVNO == out[j].KVNO && e.Usable:
			out[j] = e
		}
	}
	return out
}

// Realms are those of the keys, each once.
func (k *Keytab) Realms() []string {
	var out []string
	for _, e := range k.entries {
		if !slices.Contains(out, e.realm) {
			out = append(out, e.realm)
		}
	}
	return out
}

// keysFor are the keys that may have sealed a ticket for a service, the one
// with the ticket's key version first. Active Directory does not mind the
// case of a service's name, and version numbers of 8 bits begin anew.
func (k *Keytab) keysFor(name types.PrincipalName, realm string, kvno int, etype int32) (keys []types.EncryptionKey, known bool) {
	var others []types.EncryptionKey
	for _, e := range k.entries {
		if e.realm != realm || !slices.EqualFunc(e.name, name.NameString, strings.EqualFold) {
			continue
		}
		known = true
		switch {
		case e.key.KeyType != etype:
		case kvno == 0 || e.kvno == uint32(kvno):
			keys = append(keys, e.key)
		case e.kvno&0xff == uint32(kvno)&0xff:
			others = append(others, e.key)
		}
	}
	return append(keys, others...), known
}

// String keeps keys out of logs.
func (k *Keytab) String() string { return fmt.Sprintf("%d keys", len(k.entries)) }

// GoString keeps keys out of %#v.
func (k *Keytab) GoString() string { return k.String() }
