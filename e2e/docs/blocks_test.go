package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// block is a fenced block of a page.
type block struct {
	page     string
	line     int // of the opening fence, from 1
	language string
	text     string
}

// leftOut has the blocks that are not run, by page and first line, and why.
var leftOut = map[string]string{
	"docs/cli.md: cleversocks top":                                       "package e2e runs it, in a terminal",
	"docs/cli.md: cleversocks events --type denied,banned":               "it goes on until it is interrupted; package e2e runs it",
	"docs/cli.md: cleversocks drain":                                     "it ends the daemon; package e2e runs it",
	"README.md: go run github.com/go-task/task/v3/cmd/task@v3.40.1 test": "it is what runs this test",
	"docs/upgrades.md: [[listener]]":                                     "package dist runs it, with sockets that systemd-socket-activate passes",
	"docs/protocols.md: SOCKS_CONF=socks.conf socksify kdig +notcp @192.0.2.53 example.com   # not dig: its sendmmsg goes around": "package e2e runs it, with a name server and an FTP server",
}

// before are commands ahead of a page's own. The examples of the command line are
// for a folder with some files, and an operator who has the token at hand.
var before = map[string]string{
	"docs/cli.md": `mkdir -p /tmp/folder /etc/bash_completion.d /etc/fish/completions /usr/local/share/zsh/site-functions
cd /tmp/folder
cp /etc/cleversocks/cleversocks.toml /etc/cleversocks/password /etc/cleversocks/users .
printf '[[case]]\nto = "example.com:443"\nuser = "alice"\nexpect = "allow"\n' > rules-test.toml
printf 'erin:a-password-of-hers\nfrank:a-password-of-his\n' > users.txt
printf '#!/bin/sh\ncat users.txt\n' > directory-export
chmod +x directory-export
export CLEVERSOCKS_ADMIN__TOKEN_FILE=/etc/cleversocks/token
`,
}

// key is how leftOut names a block.
func (b block) key() string {
	first, _, _ := strings.Cut(b.text, "\n")
	return b.page + ": " + first
}

// pages are the files whose blocks are run, below the project's folder.
func pages(t *testing.T, root string) []string {
	t.Helper()
	found := []string{"README.md"}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") && !generated(path) {
			name, relErr := filepath.Rel(root, path)
			if relErr != nil {
				return relErr
			}
			found = append(found, name)
		}
		return err
	})
	if err != nil || len(found) < 10 {
		t.Fatal(found, err)
	}
	return found
}

// generated pages are held by the tests of what they are made from.
func generated(path string) bool {
	switch filepath.Base(path) {
	case "configuration.md", "metrics.md", "benchmarks.md":
		return true
	}
	return false
}

// blocks are the fenced blocks of a page. Those in a list are indented.
func blocks(t *testing.T, root, page string) []block {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	var found []block
	var open *block
	indent := 0
	for i, line := range strings.Split(string(raw), "\n") {
		bare := strings.TrimLeft(line, " ")
		switch {
		case open == nil && strings.HasPrefix(bare, "```"):
			indent = len(line) - len(bare)
			open = &block{page: page, line: i + 1, language: strings.TrimPrefix(bare, "```")}
		case open != nil && bare == "```":
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line[min(indent, len(line)):] + "\n"
		}
	}
	if open != nil {
		t.Errorf("%s:%d: a block that does not end", page, open.line)
	}
	return found
}

// scriptOf is what runs a block, by its language.
func scriptOf(t *testing.T, b block) string {
	t.Helper()
	if why, ok := leftOut[b.key()]; ok {
		t.Logf("%s:%d is not run: %s", b.page, b.line, why)
		return ""
	}
	switch b.language {
	case "toml":
		return fileScript("/tmp/block.toml", b.text) +
			"loads_again /tmp/block.toml\n" +
			"start cleversocks --config /tmp/block.toml\n"
	case "sh":
		return commandScript(b.text)
	case "yaml":
		if strings.HasPrefix(b.text, "groups:") {
			return fileScript("/tmp/rules.yml", b.text) + "promtool check rules /tmp/rules.yml\n"
		}
		return fileScript("/tmp/prometheus.yml", b.text) + "promtool check config --syntax-only /tmp/prometheus.yml\n"
	case "haproxy":
		return fileScript("/tmp/haproxy.cfg", b.text) + "haproxy -c -f /tmp/haproxy.cfg\n"
	case "json":
		return fileScript("/tmp/block.json", b.text) + "/usr/bin/python3 -m json.tool /tmp/block.json > /dev/null\n"
	case "python":
		return "usual\n" + fileScript("/tmp/block.py", b.text) + "/usr/bin/python3 /tmp/block.py\n"
	case "text", "ini", "bat", "powershell":
		for line := range strings.Lines(b.text) {
			if strings.HasPrefix(line, "cleversocks ") {
				t.Errorf("%s:%d: a command of ours that nobody runs: %s", b.page, b.line, line)
			}
		}
	default:
		t.Errorf("%s:%d: a block of language %q: say sh, toml, yaml, haproxy, python; ini, bat, powershell for files and commands of others; text for what is only read",
			b.page, b.line, b.language)
	}
	return ""
}

// fileScript writes a file that only its owner may read.
func fileScript(path, text string) string {
	return "cat > " + path + " <<'END'\n" + text + "END\nchmod 600 " + path + "\n"
}

// commandScript makes a script of commands. A line that starts the daemon in
// the foreground, as somebody would in a terminal, starts it beside the rest
// and waits until it serves; a next one takes its place. A block that starts
// none is for the world's usual one. Whatever asks for a password gets one.
func commandScript(text string) string {
	var out strings.Builder
	starts := false
	for _, command := range commands(text) {
		out.WriteString("exec < /tmp/typed\n")
		if startsDaemon(command) {
			starts = true
			command = "start " + command
		}
		out.WriteString(command + "\n")
	}
	switch {
	case starts:
		return out.String()
	case strings.Contains(text, "negotiate"):
		return "realm\nusual\n" + out.String()
	}
	return "usual\n" + out.String()
}

// commands are the lines of a block, continued ones in one piece.
func commands(text string) []string {
	var found []string
	whole := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		whole += line
		if strings.HasSuffix(line, "\\") || strings.HasSuffix(line, "&&") {
			whole += "\n"
			continue
		}
		found = append(found, whole)
		whole = ""
	}
	return found
}

// startsDaemon says whether a command runs the daemon: the program without a
// subcommand.
func startsDaemon(command string) bool {
	command, _, _ = strings.Cut(command, "#")
	words := strings.Fields(command)
	switch {
	case len(words) == 3 && strings.HasPrefix(command, "go run ./cmd/cleversocks"):
		return true
	case len(words) == 0 || words[0] != "cleversocks":
		return false
	case len(words) == 1:
		return true
	}
	return strings.HasPrefix(words[1], "-") && words[1] != "--version" && words[1] != "--help"
}
