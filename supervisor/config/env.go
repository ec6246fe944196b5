package config

import (
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/env/v2"
)

// envPrefix starts the names of our variables. Only names with two more
// underscores in a row count, so that what orchestrators and shells invent
// (CLEVERSOCKS_PORT=tcp://..., CLEVERSOCKS_VERSION) disturbs nobody.
const envPrefix = "CLEVERSOCKS_"

// envName is the variable of a setting: CLEVERSOCKS_LOG__LEVEL.
func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "__"))
}

// loadEnv takes the settings among the variables.
func (r *run) loadEnv(environ []string) {
	var scratch Config
	sections := scratch.sections()
	known := make(map[string]string)
	var names []string
	for _, k := range plainKeys(sections) {
		known[envName(k.path)] = k.path
		names = append(names, envName(k.path))
	}
	r.slips(environ, names)
	r.load(env.Provider(".", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if !strings.Contains(strings.TrimPrefix(name, envPrefix), "__") {
				return "", nil
			}
			path, ok := known[name]
			if !ok {
				r.add(envOrigin(name), "", "%s", unknownEnv(name, sections, names))
				return "", nil
			}
			return path, value
		},
	}), source{text: true, origin: func(path string) origin { return envOrigin(envName(path)) }})
}

// slips looks for variables that are most likely meant to be a setting, and are
// none: underscores that are missing or not doubled, as CLEVERSOCKS_AUTH_REQUIRED
// and CLEVERSOCKS_AUTHREQUIRED, small letters, a letter or two that are wrong.
// Where the setting that was meant keeps people out, the proxy would be open
// without it: that is an error. Others are warned of.
func (r *run) slips(environ, names []string) {
	bare := make(map[string]string, len(names)) // by the name without underscores
	for _, name := range names {
		bare[letters(name)] = name
	}
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, envPrefix) && strings.Contains(name[len(envPrefix):], "__") {
			continue // a setting, or refused as an unknown one
		}
		if name == envPrefix+"CONFIG" {
			r.cfg.Warnings = append(r.cfg.Warnings, envOrigin(name).where+" is ignored: --config names the file")
			continue
		}
		if section, ok := sectionless[name]; ok {
			r.cfg.Warnings = append(r.cfg.Warnings, envOrigin(name).where+" is ignored: the setting's variable is "+envName(section))
			continue
		}
		meant := nearest(letters(name), bare)
		if meant == "" {
			continue
		}
		if opensWithout(meant) {
			r.add(envOrigin(name), "", "is no setting, and the proxy would be open without the one that is meant: write %s", meant)
			continue
		}
		r.cfg.Warnings = append(r.cfg.Warnings, envOrigin(name).where+" is ignored: the setting's variable is "+meant)
	}
}

// sectionless are variables that other programs have, and the settings that
// stand for them here.
var sectionless = map[string]string{
	envPrefix + "USER": userKey, envPrefix + "USERNAME": userKey, envPrefix + "PASSWORD": passwordKey, envPrefix + "PASS": passwordKey,
	envPrefix + "PASSWORD_FILE": passwordFile, envPrefix + "CREDENTIALS_FILE": credentialFile, envPrefix + "USERS_FILE": usersFile, envPrefix + "USERS": usersFile,
}

// letters is a variable's name without what is easily forgotten.
func letters(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "_", "")) }

// nearest is the setting's variable that a name is a slip of, or "". Names that
// orchestrators invent for a service (CLEVERSOCKS_PORT_1080_TCP) are none.
func nearest(name string, bare map[string]string) string {
	if meant, ok := bare[name]; ok {
		return meant
	}
	const prefix, shortest = "CLEVERSOCKS", 6
	rest, ours := strings.CutPrefix(name, prefix)
	if ours && (strings.HasPrefix(rest, "PORT") || strings.HasPrefix(rest, "SERVICE")) ||
		!strings.HasPrefix(name, "CLEVER") || len(name) < len(prefix)+shortest || len(name) > 100 {
		return ""
	}
	best, bestDistance := "", 3
	for other, meant := range bare {
		if d := distance(name, other); d < bestDistance || d == bestDistance && meant < best {
			best, bestDistance = meant, d
		}
	}
	return best
}

// opensWithout reports whether a variable is of a section that says who may
// come in and where to.
func opensWithout(name string) bool {
	return strings.HasPrefix(name, envName("auth")+"__") || strings.HasPrefix(name, envName("acl")+"__")
}

func envOrigin(name string) origin {
	return origin{layer: fromEnv, where: "environment " + clip(name)}
}

func unknownEnv(name string, sections []section, names []string) string {
	for _, sec := range sections {
		if sec.isArray() && strings.HasPrefix(name, envName(sec.name)+"__") {
			return "the [[" + sec.name + "]] tables are for the file alone"
		}
	}
	return "unknown setting" + DidYouMean(name, names)
}

// SecretEnv returns the names of those variables of environ that hold a
// secret: once a Loader was made, the process can unset them.
func SecretEnv(environ []string) []string {
	var c Config
	var names []string
	for _, k := range plainKeys(c.sections()) {
		if _, secret := k.Value.(*Secret); !secret {
			continue
		}
		name := envName(k.path)
		if slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			names = append(names, name)
		}
	}
	return names
}
