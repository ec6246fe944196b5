package learn

import (
	"fmt"
	"io"
	"strings"
	"time"

	"cleversocks/supervisor/config"
)

// WriteTOML writes rules for a person to review, in the form of the settings.
func WriteTOML(w io.Writer, s *Seen, rules []Rule) error {
	var b strings.Builder
	if s.Total == 0 {
		b.WriteString("# No requests that rules denied, or would have.\n")
	} else {
		fmt.Fprintf(&b, "# %d requests that rules denied, or would have, from %s to %s.\n", s.Total, stamp(s.First), stamp(s.Last))
	}
	b.WriteString("# Each rule allows what was seen and nothing else. Read them before use, and put\n# them in front of the rule that denies; acl.default is a matter of its own.\n")
	if s.Own > 0 {
		fmt.Fprintf(&b, "# %d were to the proxy itself, which nothing allows.\n", s.Own)
	}
	if s.Skipped > 0 {
		fmt.Fprintf(&b, "# %d lines could not be read.\n", s.Skipped)
	}
	if len(rules) == 0 {
		b.WriteString("# There is nothing to allow.\n")
	}
	for i := range rules {
		rules[i].write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "no time"
	}
	return t.UTC().Format(time.RFC3339)
}

func (r *Rule) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n# %d requests, the last %s\n[[acl.rule]]\naction = \"allow\"\n", r.Count, stamp(r.Last))
	if len(r.Users) > 0 {
		fmt.Fprintf(b, "users = [%s]\n", quoted(r.Users))
	}
	if len(r.Groups) > 0 {
		fmt.Fprintf(b, "groups = [%s]\n", quoted(r.Groups))
	}
	if len(r.From) > 0 {
		from := make([]string, len(r.From))
		for i, addr := range r.From {
			from[i] = addr.String()
		}
		fmt.Fprintf(b, "from = [%s]\n", quoted(from))
	}
	b.WriteString("to = [\n")
	for _, d := range r.To {
		note := fmt.Sprint(d.Count)
		if d.Name != "" {
			note += ", asked for as " + d.Name + ": block_private yields to an address alone"
		}
		fmt.Fprintf(b, "  %s,  # %s\n", config.QuoteTOML(d.Host), note)
	}
	fmt.Fprintf(b, "]\nports = [%s]\ncommands = [%s]\n", portList(r.Ports), quoted(r.Commands))
}

// portList writes sorted ports, three or more in a row as a range.
func portList(ports []uint16) string {
	var parts []string
	for i := 0; i < len(ports); {
		end := i
		for end+1 < len(ports) && ports[end+1] == ports[end]+1 {
			end++
		}
		if end-i < 2 {
			end = i
			parts = append(parts, fmt.Sprint(ports[i]))
		} else {
			parts = append(parts, fmt.Sprintf("\"%d-%d\"", ports[i], ports[end]))
		}
		i = end + 1
	}
	return strings.Join(parts, ", ")
}

func quoted(list []string) string {
	texts := make([]string, len(list))
	for i, s := range list {
		texts[i] = config.QuoteTOML(s)
	}
	return strings.Join(texts, ", ")
}
