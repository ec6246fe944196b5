package config

import (
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/spf13/pflag"

	"cleversocks/conn/netaddr"
)

// Flags that set more than one key, or part of one.
const (
	quietFlag  = "quiet"
	listenFlag = "listen"
	portFlag   = "port"
)

// RegisterFlags adds the flags of all settings to fs. Values are checked by
// Load, with the other sources'. wipe is called with the text of each secret
// once it has been copied, so that the caller can overwrite the process's
// arguments, which the text aliases; nil: not called.
func RegisterFlags(fs *pflag.FlagSet, wipe func(text string)) {
	fs.SortFlags = false
	fs.StringP(listenFlag, "i", "127.0.0.1", "The `ADDR` to listen on: an IP address or a name. Replaces all [[listener]]s.")
	fs.StringP(portFlag, "p", "1080", "The `PORT` to listen on. Replaces all [[listener]]s.")
	fs.String(tlsCertFlag, "", "The certificate's PEM `FILE`: clients speak TLS on listeners that have no certificate of their own.")
	fs.String(tlsKeyFlag, "", "The PEM `FILE` of the certificate's key.")
	var c Config
	for _, k := range plainKeys(c.sections()) {
		if k.Flag == "" {
			continue
		}
		usage := k.flagUsage(k.path)
		if _, secret := k.Value.(*Secret); secret {
			fs.VarP(&secretFlag{wipe: wipe}, k.Flag, k.Short, usage)
			fs.Lookup(k.Flag).Annotations = argument(k.Arg)
			continue
		}
		switch reflect.TypeOf(k.Value).Elem().Kind() {
		case reflect.Bool:
			fs.BoolP(k.Flag, k.Short, false, usage)
		case reflect.Slice: // may be given several times
			fs.StringArrayP(k.Flag, k.Short, nil, usage)
		default:
			fs.StringP(k.Flag, k.Short, k.Default, usage)
		}
		fs.Lookup(k.Flag).Annotations = argument(k.Arg)
	}
	registerForward(fs, wipe)
	fs.BoolP(quietFlag, "q", false, "Logs errors alone and no access records: log.level = \"error\", log.access = \"off\".")
}

// Argument is the annotation of a flag that says what help texts call its
// argument.
const Argument = "cleversocks_argument"

func argument(name string) map[string][]string {
	if name == "" {
		return nil
	}
	return map[string][]string{Argument: {name}}
}

// flagUsage is the first sentence of the documentation, what is accepted where
// that is a few words, and the setting.
func (k *Key) flagUsage(path string) string {
	doc, _, _ := strings.Cut(k.Doc, ". ")
	doc = strings.TrimSuffix(strings.ReplaceAll(doc, "`", ""), ".")
	if last := len(k.Choices) - 1; last > 0 {
		doc += ": " + strings.Join(k.Choices[:last], ", ") + " or " + k.Choices[last]
	}
	return doc + " (" + path + ")."
}

// FlagChoices are the only values that a flag takes, or nil.
func FlagChoices(name string) []string {
	var c Config
	for _, k := range plainKeys(c.sections()) {
		if k.Flag == name && name != "" {
			return k.Choices
		}
	}
	return nil
}

// flagOrigin names a flag as it was most likely typed.
func flagOrigin(name, short string) origin {
	where := "flag --" + name
	if short != "" {
		where = "flag -" + short + " (--" + name + ")"
	}
	return origin{layer: fromFlag, where: where}
}

// loadFlags takes the flags that were given.
func (r *run) loadFlags(fs *pflag.FlagSet) {
	r.loadQuiet(fs)
	var c Config
	keys := make(map[string]keyPath) // by flag
	origins := make(map[string]origin)
	for _, k := range plainKeys(c.sections()) {
		if k.Flag != "" {
			keys[k.Flag] = k
			origins[k.path] = flagOrigin(k.Flag, k.Short)
		}
	}
	r.load(posflag.ProviderWithFlag(fs, ".", nil, func(f *pflag.Flag) (string, any) {
		k, ok := keys[f.Name]
		if !ok {
			return "", nil
		}
		if _, isRanges := k.Value.(*[]Prefix); isRanges {
			return k.path, r.addressesOf(k.flagValue(f), k.path, origins[k.path])
		}
		return k.path, k.flagValue(f)
	}), source{text: true, origin: func(path string) origin { return origins[path] }})
	r.loadListenFlags(fs)
}

// flagValue is the text that Load reads.
func (k keyPath) flagValue(f *pflag.Flag) string {
	if s, ok := f.Value.(*secretFlag); ok {
		return s.secret.Reveal()
	}
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return strings.Join(list.GetSlice(), ",")
	}
	text := f.Value.String()
	if _, isDuration := k.Value.(*Duration); isDuration {
		// CleverSocks 1 took plain seconds.
		if _, err := strconv.ParseUint(text, 10, 32); err == nil {
			return text + "s"
		}
	}
	return text
}

// loadQuiet is -q, below --log-level and --access, which say more.
func (r *run) loadQuiet(fs *pflag.FlagSet) {
	if !changed(fs, quietFlag) {
		return
	}
	if quiet, err := fs.GetBool(quietFlag); err != nil || !quiet {
		return
	}
	r.load(confmap.Provider(map[string]any{"log.level": "error", "log.access": "off"}, "."),
		source{text: true, origin: func(string) origin { return flagOrigin(quietFlag, "q") }})
}

// loadListenFlags makes the one listener of -i and -p.
func (r *run) loadListenFlags(fs *pflag.FlagSet) {
	if !changed(fs, listenFlag) && !changed(fs, portFlag) {
		return
	}
	host, port := fs.Lookup(listenFlag).Value.String(), fs.Lookup(portFlag).Value.String()
	o := flagOrigin(listenFlag, "i")
	if !changed(fs, listenFlag) {
		o = flagOrigin(portFlag, "p")
	}
	if _, err := netaddr.ParsePort(port); err != nil {
		r.add(flagOrigin(portFlag, "p"), "", "must be a port from 0 to 65535, not %q", clip(port))
		port = "0"
	}
	if bracketed, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(bracketed, "]")
	}
	if _, err := netip.ParseAddr(host); err != nil && !plausibleName(host) {
		r.add(flagOrigin(listenFlag, "i"), "", "must be an IP address or a name, without a port (that is -p), not %q", clip(host))
		return
	}
	element := map[string]any{"address": net.JoinHostPort(host, port)}
	r.load(confmap.Provider(map[string]any{"listener": []any{element}}, ""),
		source{text: true, origin: func(string) origin { return o }})
}

// listensByFlag reports whether -i or -p stands in the place of all listeners of the
// file.
func (f *finisher) listensByFlag() bool {
	return f.flags != nil && (changed(f.flags, listenFlag) || changed(f.flags, portFlag))
}

func changed(fs *pflag.FlagSet, name string) bool {
	f := fs.Lookup(name)
	return f != nil && f.Changed
}

// secretFlag is a flag whose text is copied and then wiped, and never shown.
type secretFlag struct {
	secret Secret
	wipe   func(text string)
}

// Set copies the text and wipes the original.
func (s *secretFlag) Set(text string) error {
	s.secret = NewSecret(text)
	if s.wipe != nil {
		s.wipe(text)
	}
	return nil
}

// String is a mask.
func (s *secretFlag) String() string { return s.secret.String() }

// Type names the value in help texts.
func (s *secretFlag) Type() string { return "string" }
