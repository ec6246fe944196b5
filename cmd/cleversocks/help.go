package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"cleversocks/supervisor/config"
)

// The width of help texts: that of the terminal, within these.
const (
	widest    = 80
	narrowest = 30
)

// helpWidth is how wide help may be: as the terminal, or as COLUMNS says where
// there is none, and never wider than people like to read.
func (a *app) helpWidth() int {
	width := widest
	if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			width = columns
		}
	} else if columns, err := strconv.Atoi(a.getenv("COLUMNS")); err == nil && columns > 0 {
		width = columns
	}
	return max(narrowest, min(widest, width))
}

// setHelp has all commands write their help as writeHelp does. What goes wrong
// with it is kept in a.helpErr: cobra asks for none.
func (a *app) setHelp(root *cobra.Command) {
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		a.helpErr = writeHelp(a.stdout, cmd, a.helpWidth())
	})
	root.SetUsageFunc(func(cmd *cobra.Command) error { return writeHelp(a.stderr, cmd, a.helpWidth()) })
	help := &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Shows the help of a command",
		Long:    "Shows the help of a command, as --help behind it does.",
		Example: "  cleversocks help check\n  cleversocks help user add",
		ValidArgsFunction: func(_ *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
			under, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return startingWith(start, subcommands(under)), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(about, rest[0])
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
	root.SetHelpCommand(help)
	root.AddCommand(help)
}

// writeHelp writes the help of a command, no line wider than width but for
// examples, which are there to be copied.
func writeHelp(w io.Writer, cmd *cobra.Command, width int) error {
	var b strings.Builder
	b.WriteString(reflow(cmp.Or(cmd.Long, cmd.Short), width) + "\n\nUsage:\n")
	b.WriteString("  " + wrapFrom(cmd.UseLine(), 2, 6, width) + "\n")
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		b.WriteString("\nExamples:\n" + cmd.Example + "\n")
	}
	writeCommands(&b, cmd, width)
	writeFlags(&b, "Flags", cmd.LocalFlags(), width)
	writeFlags(&b, "Flags of all these commands", cmd.InheritedFlags(), width)
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\n" + wrap(fmt.Sprintf("%q says more about a command.", cmd.CommandPath()+" COMMAND --help"), 0, width) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeCommands lists the commands below one, by group.
func writeCommands(b *strings.Builder, cmd *cobra.Command, width int) {
	column := 0
	for _, sub := range cmd.Commands() {
		column = max(column, len(sub.Name()))
	}
	list := func(title, group string) {
		for _, sub := range cmd.Commands() {
			if sub.GroupID != group || !sub.IsAvailableCommand() {
				continue
			}
			if title != "" {
				b.WriteString("\n" + title + "\n")
				title = ""
			}
			writeEntry(b, "  "+sub.Name(), sub.Short, column+4, width)
		}
	}
	for _, g := range cmd.Groups() {
		list(g.Title, g.ID)
	}
	if len(cmd.Groups()) > 0 {
		list("Others:", "")
		return
	}
	list("Commands:", "")
}

// flagColumn is the widest that the names of flags make their column.
const flagColumn = 26

// writeFlags lists flags with their texts.
func writeFlags(b *strings.Builder, title string, flags *pflag.FlagSet, width int) {
	if !flags.HasAvailableFlags() {
		return
	}
	b.WriteString("\n" + title + ":\n")
	column := 0
	flags.VisitAll(func(f *pflag.Flag) {
		if n := len(flagNames(f)); !f.Hidden && n <= flagColumn {
			column = max(column, n)
		}
	})
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			writeEntry(b, flagNames(f), f.Usage+defaultOf(f), column+2, width)
		}
	})
}

// unquote takes the names of arguments out of the texts of all flags, where
// pflag has them in quotes: shells show the texts as they are.
func unquote(root *cobra.Command) {
	for _, cmd := range everyCommand(root) {
		cmd.InitDefaultHelpFlag()
		cmd.Flag("help").Usage = "Shows this help and exits"
		for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
			flags.VisitAll(func(f *pflag.Flag) {
				if f.Annotations[config.Argument] != nil || f.Value.Type() == "bool" {
					return
				}
				name, usage := pflag.UnquoteUsage(f)
				f.Usage = usage
				if f.Annotations == nil {
					f.Annotations = make(map[string][]string)
				}
				f.Annotations[config.Argument] = []string{name}
			})
		}
	}
}

// argumentOf is the name of a flag's argument, or "".
func argumentOf(f *pflag.Flag) string { return strings.Join(f.Annotations[config.Argument], "") }

// flagNames is "  -i, --listen ADDR".
func flagNames(f *pflag.Flag) string {
	names := "      --" + f.Name
	if f.Shorthand != "" {
		names = "  -" + f.Shorthand + ", --" + f.Name
	}
	if argument := argumentOf(f); argument != "" {
		names += " " + argument
	}
	return names
}

// defaultOf is " (default X)", where that says something.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
		return ""
	}
	return " (default " + f.DefValue + ")"
}

// writeEntry writes a name with a text beside it, or below it where there is no
// room: the name is too long, or the terminal narrow.
func writeEntry(b *strings.Builder, name, text string, column, width int) {
	const leastText = 30
	switch {
	case width-column < leastText:
		column = 8
		fmt.Fprintf(b, "%s\n%s", name, strings.Repeat(" ", column))
	case utf8.RuneCountInString(name) > column-2:
		fmt.Fprintf(b, "%s\n%s", name, strings.Repeat(" ", column))
	default:
		fmt.Fprintf(b, "%-*s", column, name)
	}
	b.WriteString(wrap(text, column, width) + "\n")
}

// wrap breaks a text between words, the lines behind the first indented; the
// first one begins in column indent, too.
func wrap(text string, indent, width int) string { return wrapFrom(text, indent, indent, width) }

// wrapFrom is wrap for a text that begins in column at.
func wrapFrom(text string, at, indent, width int) string {
	var b strings.Builder
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+n > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

// reflow breaks a text of paragraphs anew where a line is wider than width.
// Indented lines are lists, and stay lines.
func reflow(text string, width int) string {
	var out []string
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		lines := strings.Split(paragraph, "\n")
		fits := true
		for _, line := range lines {
			fits = fits && utf8.RuneCountInString(line) <= width
		}
		switch {
		case fits:
		case strings.HasPrefix(paragraph, " "):
			for i, line := range lines {
				indent := len(line) - len(strings.TrimLeft(line, " "))
				lines[i] = strings.Repeat(" ", indent) + wrapFrom(line, indent, indent+2, width)
			}
			paragraph = strings.Join(lines, "\n")
		default:
			paragraph = wrap(paragraph, 0, width)
		}
		out = append(out, paragraph)
	}
	return strings.Join(out, "\n\n")
}
