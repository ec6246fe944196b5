package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cleversocks/supervisor/config"
)

// The manual pages are written in man(7), a sentence or a piece of one a line.

// Fixed, so that a page changes with its subject alone.
const manDate = "2026-11-01"

// roff is a text as groff takes it for itself.
var roff = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// manLines are paragraphs of running text.
func manLines(text string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(wrap(text, 0, 76), "\n") {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, `\(aq`) {
			b.WriteString(`\&`)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// manText is a help text: paragraphs, of which indented ones are lists.
func manText(text string) string {
	var parts []string
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(paragraph, " ") {
			parts = append(parts, manVerbatim(paragraph))
			continue
		}
		parts = append(parts, manLines(roff.Replace(paragraph)))
	}
	return strings.Join(parts, ".PP\n")
}

// manVerbatim keeps the lines of a text.
func manVerbatim(text string) string {
	return ".nf\n" + roff.Replace(text) + "\n.fi\n"
}

// writeMan writes cleversocks.1: all commands on one page, as people look for
// them.
func writeMan(w io.Writer, root *cobra.Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH CLEVERSOCKS 1 %s CleverSocks \"User Commands\"\n.nh\n.ad l\n", manDate)
	b.WriteString(".SH NAME\ncleversocks \\- a SOCKS proxy daemon\n.SH SYNOPSIS\n.B cleversocks\n.RI [ flags ]\n.br\n.B cleversocks\n.I command\n.RI [ flags ]\n")
	b.WriteString(".SH DESCRIPTION\n" + manText(root.Long))
	b.WriteString(".SH OPTIONS\n")
	manFlags(&b, root.LocalFlags())
	b.WriteString(".SH EXAMPLES\n" + manVerbatim(root.Example))
	b.WriteString(".SH COMMANDS\n")
	for _, cmd := range everyCommand(root)[1:] {
		if !cmd.IsAvailableCommand() {
			continue
		}
		fmt.Fprintf(&b, ".SS %s\n", roff.Replace(strings.TrimPrefix(cmd.UseLine(), "cleversocks ")))
		text := cmd.Long
		if text == "" {
			text = cmd.Short + "."
		}
		b.WriteString(manText(text))
		// Flags of all settings are told of above.
		if own := ownFlags(root, cmd); own.HasAvailableFlags() {
			manFlags(&b, own)
		}
		b.WriteString(".PP\n" + manVerbatim(cmd.Example))
	}
	b.WriteString(`.SH EXIT STATUS
.TP
.B 0
The daemon has drained; a command has done what it was asked.
.TP
.B 1
It failed: the daemon while it was running, or a command.
.TP
.B 2
The configuration or the usage is at fault; nothing was done.
.SH ENVIRONMENT
Each setting has a variable, as
.B CLEVERSOCKS_LOG__LEVEL
for log.level: see
.BR cleversocks.toml (5).
.TP
.B NO_COLOR
The log has no colours on a terminal.
.TP
.B COLUMNS
How wide help texts are where standard output is no terminal.
.SH SIGNALS
.TP
.B SIGHUP
Reads everything again, and reopens log files.
.TP
.B SIGUSR2
Starts the program anew, which takes over.
.TP
.BR SIGTERM ", " SIGINT
Let connections end. Another one, half a second later or more, ends at once.
.SH SEE ALSO
.BR cleversocks.toml (5)
`)
	_, err := io.WriteString(w, b.String())
	return err
}

// ownFlags are those of a command that the root's do not tell of already.
func ownFlags(root, cmd *cobra.Command) *pflag.FlagSet {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	own.SortFlags = false
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		same := root.LocalFlags().Lookup(f.Name)
		if f.Name != "help" && (same == nil || same.Usage != f.Usage) {
			own.AddFlag(f)
		}
	})
	return own
}

// manFlags lists flags.
func manFlags(b *strings.Builder, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(b, `\fB\-%s\fR, `, roff.Replace(f.Shorthand))
		}
		fmt.Fprintf(b, `\fB\-\-%s\fR`, roff.Replace(f.Name))
		if argument := argumentOf(f); argument != "" {
			fmt.Fprintf(b, ` \fI%s\fR`, roff.Replace(argument))
		}
		b.WriteString("\n" + manLines(roff.Replace(f.Usage+defaultOf(f))))
	})
}

var (
	mdCode = regexp.MustCompile("`([^`]*)`")
	mdLink = regexp.MustCompile(`\[([^\]]*)\]\(([^)]*)\)`)
)

// manInline is a line of Markdown.
func manInline(line string) string {
	line = strings.ReplaceAll(line, "[cli.md](cli.md)", "cleversocks(1)")
	line = mdLink.ReplaceAllString(line, "$1")
	var b strings.Builder
	for line != "" {
		at := mdCode.FindStringSubmatchIndex(line)
		if at == nil {
			break
		}
		b.WriteString(roff.Replace(line[:at[0]]) + `\fB` + roff.Replace(line[at[2]:at[3]]) + `\fR`)
		line = line[at[1]:]
	}
	return b.String() + roff.Replace(line)
}

// writeSettingsMan writes cleversocks.toml.5, the reference of the settings: a
// section for each table.
func writeSettingsMan(w io.Writer) error {
	var page bytes.Buffer
	if err := config.WriteReference(&page); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, ".TH CLEVERSOCKS.TOML 5 %s CleverSocks \"File Formats\"\n.nh\n.ad l\n", manDate)
	b.WriteString(".SH NAME\ncleversocks.toml \\- the settings of cleversocks\n.SH DESCRIPTION\n")
	written := false // something of the section, so far
	for block := range strings.SplitSeq(strings.TrimSpace(page.String()), "\n\n") {
		switch {
		case strings.HasPrefix(block, "# "), strings.HasPrefix(block, "<!--"):
			continue
		case strings.HasPrefix(block, "## "):
			fmt.Fprintf(&b, ".SH %s\n", roff.Replace(strings.Trim(block, "# `")))
			written = false
			continue
		case strings.HasPrefix(block, "### "):
			fmt.Fprintf(&b, ".TP\n.B %s\n", roff.Replace(strings.Trim(block, "# `")))
			written = false
			continue
		case strings.HasPrefix(block, "- "):
			for line := range strings.SplitSeq(block, "\n") {
				b.WriteString(".br\n" + manLines(manInline(strings.TrimPrefix(line, "- "))))
			}
		case strings.HasPrefix(block, "1. "):
			for item := range strings.SplitSeq(strings.ReplaceAll(block, "\n   ", " "), "\n") { // continued lines are indented
				number, text, _ := strings.Cut(item, " ")
				fmt.Fprintf(&b, ".IP %s 4\n%s", number, manLines(manInline(text)))
			}
		default:
			if written {
				b.WriteString(".PP\n")
			}
			b.WriteString(manLines(manInline(strings.ReplaceAll(block, "\n", " "))))
		}
		written = true
	}
	b.WriteString(`.SH FILES
.TP
.B /etc/cleversocks/cleversocks.toml
What the packages' unit reads.
.SH EXAMPLE
.B cleversocks init
writes a file to start from.
.PP
.nf
[[listener]]
address = "0.0.0.0:1080"

[auth]
users_file = "/etc/cleversocks/users"

[acl]
block_private = true
.fi
.SH SEE ALSO
.BR cleversocks (1)
`)
	_, err := io.WriteString(w, b.String())
	return err
}
