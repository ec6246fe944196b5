package config

import (
	"reflect"
	"slices"
	"strings"
)

// FileUse is a file, or a directory, that the settings name.
type FileUse struct {
	Key  string // the setting; "": the configuration file itself
	Path string
	// Dir says that Path is a directory.
	Dir bool
	// Written says that the daemon makes or changes it.
	Written bool
}

// namesFile reports whether a setting's value is the path of a file. Those that
// hold secrets or lists are called so; the others have names of their own.
func (k Key) namesFile() bool {
	name := k.Name[strings.LastIndexByte(k.Name, '.')+1:]
	return strings.HasSuffix(name, "_file") || slices.Contains([]string{"tls.cert", "tls.key", "tls.client_ca", "tls.crl", "gssapi.keytab"}, k.Name)
}

// Files are all files that the settings name, for whoever has to reach them.
func (c *Config) Files() []FileUse {
	var all []FileUse
	add := func(use FileUse) {
		if use.Path != "" {
			all = append(all, use)
		}
	}
	add(FileUse{Path: c.file})
	for _, sec := range c.sections() {
		if !sec.isArray() {
			filesOf(sec.name, sec.keys, add)
			continue
		}
		sec.each(func(i int, keys []Key) { filesOf(element(sec.name, i), keys, add) })
	}
	for key, output := range map[string]string{"log.output": c.Log.Output, "log.access_output": c.Log.AccessOutput} {
		if word, _, remote := strings.Cut(output, ":"); output != "stderr" && output != LogStdout && word != "journald" && (!remote || word != "syslog") {
			add(FileUse{Key: key, Path: output, Written: true})
		}
	}
	add(FileUse{Key: "state.directory", Path: c.State.Directory, Dir: true, Written: true})
	for i, l := range c.Listeners {
		add(FileUse{Key: element("listener", i) + ".tls.acme.cache", Path: l.TLS.ACME.Cache, Dir: true, Written: true})
	}
	return all
}

// filesOf are those of one table, and the lists that are in files.
func filesOf(path string, keys []Key, add func(FileUse)) {
	for _, k := range keys {
		switch v := k.Value.(type) {
		case *string:
			if k.namesFile() {
				// The API changes users there.
				add(FileUse{Key: path + "." + k.Name, Path: *v, Written: k.Name == "users_file"})
			}
		case *[]ProxyURL:
			for _, text := range reveal(*v) {
				if file, is := strings.CutPrefix(text, "file:"); is {
					add(FileUse{Key: path + "." + k.Name, Path: file})
				}
			}
		default:
			list, is := reflect.TypeAssert[[]string](reflect.ValueOf(k.Value).Elem())
			for _, text := range list {
				if file, isFile := strings.CutPrefix(text, "file:"); is && isFile {
					add(FileUse{Key: path + "." + k.Name, Path: file})
				}
			}
		}
	}
}
