package config

import (
	"encoding"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strconv"
	"strings"
)

// Show says whether secrets are written.
type Show bool

// Masked is without secrets: who reads the settings need not know them.
const (
	Masked   Show = false
	Revealed Show = true
)

// WriteTOML writes the effective settings as TOML and, behind each setting that
// is not the default, where it comes from. The loader takes all of it: what is
// Revealed means the same again, and a mask is a secret that nobody knows (see
// unmask). inForce is what settings mean that leave it open, by their path,
// where only the caller knows.
func (c *Config) WriteTOML(w io.Writer, inForce map[string]string, show Show) error {
	notes := map[string]string{}
	if c.Auth.Mode == Auto {
		notes["auth.required"] = strconv.FormatBool(c.Auth.Required)
	}
	if c.ACL.BlockPrivate == Auto {
		notes["acl.block_private"] = strconv.FormatBool(c.ACL.BlocksPrivate())
	}
	maps.Copy(notes, inForce)
	var plain, arrays strings.Builder
	for _, sec := range c.sections() {
		if !sec.isArray() {
			fmt.Fprintf(&plain, "[%s]\n", sec.name)
			c.writeKeys(&plain, sec.keys, sec.name, notes, show)
			plain.WriteByte('\n')
			continue
		}
		sec.each(func(i int, keys []Key) {
			fmt.Fprintf(&arrays, "[[%s]]\n", sec.name)
			c.writeKeys(&arrays, keys, fmt.Sprintf("%s[%d]", sec.name, i), nil, show)
			arrays.WriteByte('\n')
		})
	}
	_, err := io.WriteString(w, strings.TrimSuffix(plain.String()+arrays.String(), "\n"))
	return err
}

func (c *Config) writeKeys(b *strings.Builder, keys []Key, path string, notes map[string]string, show Show) {
	for _, k := range keys {
		full := path + "." + k.Name
		o := c.origins[full]
		value := reflect.ValueOf(k.Value).Elem()
		line := k.Name + " = " + formatValue(value, show)
		if k.Optional && o.layer == fromDefault {
			line = "# " + line // to set it, even to this value, would mean something
		}
		var about []string
		if o.where != "" {
			about = append(about, o.where)
		}
		if note := notes[full]; note != "" {
			about = append(about, "in force: "+note)
		}
		if len(about) > 0 {
			line += "  # " + strings.Join(about, "; ")
		}
		b.WriteString(line + "\n")
	}
}

// formatValue writes a value as TOML.
func formatValue(v reflect.Value, show Show) string {
	if s, ok := reflect.TypeAssert[interface{ reveal() string }](v); ok && (show == Revealed || s.reveal() == "") {
		return QuoteTOML(s.reveal())
	}
	if a, ok := reflect.TypeAssert[AutoBool](v); ok && a != Auto {
		return string(a)
	}
	if t, ok := reflect.TypeAssert[interface{ formatTOML() string }](v); ok {
		return t.formatTOML()
	}
	if m, ok := reflect.TypeAssert[encoding.TextMarshaler](v); ok {
		text, err := m.MarshalText()
		if err != nil {
			return `""`
		}
		return QuoteTOML(string(text))
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = formatValue(v.Index(i), show)
		}
		return "[" + strings.Join(items, ", ") + "]"
	default:
		return QuoteTOML(v.String())
	}
}

// QuoteTOML writes a basic string. Bytes that are not UTF-8, which TOML can't
// hold, become U+FFFD.
func QuoteTOML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
