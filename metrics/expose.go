package metrics

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"
)

// expose writes the series in text with what HELP and TYPE say of their
// families, which must stand together and before them. Families that the table
// does not know are left out if they are not ours: the library has some that no
// linter of Prometheus accepts.
func expose(w io.Writer, text []byte) error {
	lines := make(map[string][]byte)
	for line := range bytes.Lines(text) {
		if len(line) > 1 && line[0] != '#' {
			name := familyOf(line)
			lines[name] = append(lines[name], line...)
		}
	}
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		f, known := families[name]
		if !known && !strings.HasPrefix(name, "cleversocks_") {
			continue
		}
		if known {
			out.WriteString("# HELP " + name + " " + f.Help + "\n# TYPE " + name + " " + string(f.Type) + "\n")
		}
		out.Write(lines[name])
	}
	_, err := w.Write(out.Bytes())
	return err
}

// familyOf is the family of a line of the text format.
func familyOf(line []byte) string {
	name := string(line[:bytes.IndexAny(line, "{ ")])
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			if f := families[base]; f.Type == Histogram || f.Type == Summary {
				return base
			}
		}
	}
	return name
}
