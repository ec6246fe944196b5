package config

import (
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/pflag"

	"cleversocks/conn/upstream"
)

const forwardFlag = "forward"

// maxForwardFlags bounds how often -f is given.
const maxForwardFlags = 1000

// forwardValue is -f, given any number of times. Its text may hold a
// password: it is copied, that part is wiped, and it is never shown.
type forwardValue struct {
	rules []Secret
	wipe  func(text string)
}

// Set takes one rule more.
func (v *forwardValue) Set(text string) error {
	if len(v.rules) == maxForwardFlags {
		return fmt.Errorf("given more than %d times", maxForwardFlags)
	}
	v.rules = append(v.rules, NewSecret(text))
	if from, to := strings.IndexByte(text, ','), strings.LastIndexByte(text, '@'); v.wipe != nil && from >= 0 && to > from {
		v.wipe(text[from+1 : to])
	}
	return nil
}

// String is empty: the rules may hold passwords.
func (v *forwardValue) String() string { return "" }

// Type names the value in help texts.
func (v *forwardValue) Type() string { return "string" }

func registerForward(fs *pflag.FlagSet, wipe func(text string)) {
	fs.VarP(&forwardValue{wipe: wipe}, forwardFlag, "f",
		"Sends connections that match through a SOCKS5 proxy; may be given several times, the first match wins. `RULE` is match:port,[user:pass@]upstream:port,remote:port.")
}

// addForwardFlags puts the upstreams and rules of -f before the file's, whose
// places move along.
func (c *Config) addForwardFlags(f *finisher) {
	if f.flags == nil {
		return
	}
	flag := f.flags.Lookup(forwardFlag)
	if flag == nil {
		return
	}
	given, ok := flag.Value.(*forwardValue)
	if !ok || len(given.rules) == 0 {
		return
	}
	o := flagOrigin(forwardFlag, "f")
	var upstreams []Upstream
	var forwards []Forward
	exposed := false
	for i, secret := range given.rules {
		u, rule, err := upstream.ParseForward(secret.Reveal(), fmt.Sprintf("-f%d", i+1))
		if err != nil {
			f.add(o, "", "%s", strings.TrimPrefix(err.Error(), "-f: "))
			continue
		}
		exposed = exposed || strings.Contains(u.Via[0], "@")
		upstreams = append(upstreams, forwardUpstream(u))
		forwards = append(forwards, forwardRule(rule))
	}
	if exposed {
		f.warn("-f shows the upstream's password to other users of this machine: rather write an [[upstream]] and a [[forward]]")
	}
	c.shiftOrigins("forward", len(forwards), o)
	c.shiftOrigins("upstream", len(upstreams), o)
	c.Upstreams = append(upstreams, c.Upstreams...)
	c.Forwards = append(forwards, c.Forwards...)
}

// forwardUpstream is the [[upstream]] that a -f means.
func forwardUpstream(u upstream.Upstream) Upstream {
	var out Upstream
	for _, k := range out.keys() {
		// Defaults of the table are texts that their fields accept.
		_ = k.set(k.Default, true)
	}
	out.Name = u.Name
	out.Via = []ProxyURL{{NewSecret(u.Via[0])}}
	return out
}

// forwardRule is the [[forward]] that a -f means.
func forwardRule(r upstream.Rule) Forward {
	var out Forward
	for _, k := range out.keys() {
		_ = k.set(k.Default, true) // as above
	}
	out.To, out.Upstream, out.Rewrite = r.To, r.Upstream, r.Rewrite
	for _, p := range r.Ports {
		out.Ports = append(out.Ports, PortRange{p})
	}
	return out
}

// shiftOrigins makes room for n elements of o before those of an array table.
func (c *Config) shiftOrigins(array string, n int, o origin) {
	moved := make(map[string]origin)
	for path, at := range c.origins {
		var i int
		rest, ok := strings.CutPrefix(path, array+"[")
		if !ok {
			continue
		}
		number, tail, _ := strings.Cut(rest, "]")
		if _, err := fmt.Sscanf(number, "%d", &i); err == nil {
			moved[element(array, i+n)+tail] = at
			delete(c.origins, path)
		}
	}
	maps.Copy(c.origins, moved)
	for i := range n {
		c.origins[element(array, i)] = o
	}
}

// element is the path of an array table's element.
func element(array string, i int) string { return fmt.Sprintf("%s[%d]", array, i) }
