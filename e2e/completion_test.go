package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Somebody presses the tab key in each shell: commands, flags, the values of
// settings, the running daemon's users and sessions, and files where a file is
// meant.
func TestCompletion(t *testing.T) {
	d := start(t, withAPI(t, apiSettings))
	_, target := connect2(t, d)
	token := writeFile(t, "token", adminToken)
	for _, shell := range []struct{ name, packageName, command, setup string }{
		{
			"bash", "bash", "bash --norc --noprofile -i",
			"source /usr/share/bash-completion/bash_completion; source <(cleversocks completion bash); bind 'set show-all-if-ambiguous on'",
		},
		{
			"zsh", "zsh", "zsh -f -i",
			"cleversocks completion zsh > _cleversocks; fpath=($PWD $fpath); autoload -U compinit; compinit -u -D",
		},
		{"fish", "fish", "fish --no-config --private", "cleversocks completion fish | source"},
	} {
		t.Run(shell.name, func(t *testing.T) {
			t.Parallel()
			program(t, shell.name, shell.packageName)
			dir := t.TempDir()
			for _, name := range []string{"proxy.toml", "notes.txt"} {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			x := newTmux(t, fmt.Sprintf("cd %s; export PATH=%s:$PATH LC_ALL=C.UTF-8 CLEVERSOCKS_ADMIN__ADDRESS=%s CLEVERSOCKS_ADMIN__TOKEN_FILE=%s; %s",
				dir, filepath.Dir(binary), d.admin, token, shell.command))
			x.run("send-keys", "-l", shell.setup+"; clear; echo lo''aded")
			x.run("send-keys", "Enter")
			x.shows("(?m)^loaded")
			for _, tt := range []struct{ typed, shows string }{
				{"cleversocks upstr", `cleversocks upstreams`},
				{"cleversocks --log-level d", `--log-level debug`},
				{"cleversocks user passwd a", `passwd alice`},
				{"cleversocks kill ", `kill [0-9a-z]+|` + regexp.QuoteMeta(target)},
				{"cleversocks check --config pr", `--config proxy.toml`},
				{"cleversocks --log-output no", `--log-output notes.txt`},
			} {
				x.run("send-keys", "C-u")
				x.run("send-keys", "-l", tt.typed)
				x.run("send-keys", "Tab")
				x.shows(tt.shows)
			}
		})
	}
}
