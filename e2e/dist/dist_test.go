// Package dist tests what a release has: packages, units, the image. It needs
// root and Debian's tools; unlike package e2e it stays in the machine's own
// network, since the release is built with tools that are Go modules.
package dist

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// patience bounds every wait for something that happens at once on an idle
// machine.
const patience = 60 * time.Second

// maxProgram is the largest that the stripped program may be, in bytes.
const maxProgram = 20 << 20

// root is the project's folder.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// run runs a program to its end and gives its output.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	out, err := try(t, dir, env, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(t *testing.T, dir string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// source is a clean copy of HEAD in a folder of its own.
func source(t *testing.T) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	run(t, root(t), nil, "git", "clone", "-q", "--no-hardlinks", root(t), tree)
	return tree
}

// release is one that was built from such a copy.
func release(t *testing.T, tree, version string, env []string, arches ...string) string {
	t.Helper()
	out := t.TempDir()
	run(t, tree, append(env, "VERSION="+version), "sh", append([]string{"scripts/release.sh", out}, arches...)...)
	return out
}

func glob(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// The same commit gives the same bytes in every folder, and everything that
// belongs to a release is there and signed.
func TestRelease(t *testing.T) {
	need.Root(t)
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	run(t, "", nil, need.Program(t, "ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-C", "throw-away", "-f", key)
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	tree := source(t)
	first := release(t, source(t), "1.2.3", []string{"CLEVERSOCKS_SIGNING_KEY=" + string(private)}, "amd64", "arm64", "riscv64", "armv7")
	second := release(t, tree, "1.2.3", nil, "amd64")
	for _, pattern := range []string{"cleversocks-*-linux-amd64", "*_amd64.deb", "*.x86_64.rpm", "*.sbom.cdx.json"} {
		a, b := digest(t, glob(t, first, pattern)), digest(t, glob(t, second, pattern))
		if a != b {
			t.Errorf("%s differs between two builds of one commit", pattern)
		}
	}
	run(t, first, nil, "sha256sum", "--check", "--quiet", "SHA256SUMS")
	checkSignature(t, first, key)
	checkSBOM(t, glob(t, first, "*.sbom.cdx.json"))
	checkStatement(t, first)
	// The next version brings other settings, and is signed.
	public, secret := openpgp(t)
	settings := filepath.Join(tree, "dist/packages/cleversocks.toml")
	run(t, "", nil, "sh", "-c", "echo '# of the next version' >>"+settings)
	next := release(t, tree, "1.3.0", []string{"CLEVERSOCKS_RPM_KEY=" + secret}, "amd64")
	t.Run("start", func(t *testing.T) { t.Parallel(); startEverywhere(t, first) })
	t.Run("deb", func(t *testing.T) {
		t.Parallel()
		checkDeb(t, glob(t, first, "*_amd64.deb"), glob(t, next, "*_amd64.deb"))
	})
	t.Run("rpm", func(t *testing.T) {
		t.Parallel()
		checkRPM(t, glob(t, first, "*.x86_64.rpm"), glob(t, next, "*.x86_64.rpm"), public)
	})
}

func digest(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func checkSignature(t *testing.T, dir, key string) {
	t.Helper()
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	allowed := filepath.Join(t.TempDir(), "allowed")
	if err := os.WriteFile(allowed, append([]byte("release@cleversocks "), public...), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(sums string) error {
		_, err := try(t, dir, nil, "sh", "-c", fmt.Sprintf("ssh-keygen -Y verify -f %s -I release@cleversocks -n cleversocks-release -s SHA256SUMS.sig < %s", allowed, sums))
		return err
	}
	if err := verify("SHA256SUMS"); err != nil {
		t.Errorf("the signature: %v", err)
	}
	forged := filepath.Join(t.TempDir(), "forged")
	if err := os.WriteFile(forged, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if verify(forged) == nil {
		t.Error("the signature fits anything")
	}
}

func checkSBOM(t *testing.T, path string) {
	t.Helper()
	var sbom struct {
		BOMFormat  string `json:"bomFormat"`
		Components []struct{ Name, Version string }
	}
	readJSON(t, path, &sbom)
	found := false
	for _, c := range sbom.Components {
		found = found || c.Name == "github.com/thejerf/suture/v4" && c.Version != ""
	}
	if sbom.BOMFormat != "CycloneDX" || !found {
		t.Errorf("%s, %d components, suture among them: %v", sbom.BOMFormat, len(sbom.Components), found)
	}
}

func checkStatement(t *testing.T, dir string) {
	t.Helper()
	var statement struct {
		Type    string `json:"_type"`
		Subject []struct {
			Name   string
			Digest map[string]string
		}
	}
	readJSON(t, glob(t, dir, "*.intoto.json"), &statement)
	if statement.Type != "https://in-toto.io/Statement/v1" || len(statement.Subject) < 10 {
		t.Errorf("%s with %d subjects", statement.Type, len(statement.Subject))
	}
	for _, s := range statement.Subject {
		if got := digest(t, filepath.Join(dir, s.Name)); got != s.Digest["sha256"] {
			t.Errorf("%s: %s, stated %s", s.Name, got, s.Digest["sha256"])
		}
	}
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

// startEverywhere starts each program, the foreign ones under qemu, and has it
// check a configuration, which runs most of what start-up does.
func startEverywhere(t *testing.T, dir string) {
	t.Helper()
	for arch, qemu := range map[string]string{"amd64": "", "arm64": "qemu-aarch64", "riscv64": "qemu-riscv64", "armv7": "qemu-arm"} {
		program := glob(t, dir, "cleversocks-1.2.3-linux-"+arch)
		info, err := os.Stat(program)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxProgram {
			t.Errorf("%s has %d bytes", arch, info.Size())
		}
		command := []string{program}
		if qemu != "" {
			command = []string{need.Program(t, qemu, "qemu-user"), program}
		}
		if out := run(t, "", nil, command[0], append(command[1:], "version")...); !strings.Contains(out, "cleversocks 1.2.3 (commit ") {
			t.Errorf("%s: %q", arch, out)
		}
		serves(t, command)
	}
}

// serves starts the program on a free port, waits until it listens, and stops
// it.
func serves(t *testing.T, command []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], append(command[1:], "-p", "0", "--admin", "", "--log-format", "json", "--log-level", "debug")...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		log.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `"ready"`) {
			_ = cmd.Process.Signal(os.Interrupt)
		}
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(log.String(), `"stopped"`) {
		t.Errorf("%s: %v\n%s", filepath.Base(command[len(command)-1]), err, log.String())
	}
}

var exposure = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

func exposureOf(t *testing.T, unit string) float64 {
	t.Helper()
	out := run(t, "", nil, "systemd-analyze", "security", "--offline=true", "--no-pager", unit)
	found := exposure.FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("%s: no level in %q", unit, out)
	}
	level, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return level
}

// The unit is sound, and exposes less than that of any packaged proxy.
func TestUnits(t *testing.T) {
	need.Root(t)
	need.Program(t, "systemd-analyze", "systemd")
	dir := t.TempDir()
	for _, name := range []string{"cleversocks.service", "cleversocks.socket"} {
		raw, err := os.ReadFile(filepath.Join(root(t), "dist", "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(raw), "/usr/bin/cleversocks", "/bin/true") // not installed here
		text = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAllString(text, "")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	unit := filepath.Join(dir, "cleversocks.service")
	if out, err := try(t, dir, nil, "systemd-analyze", "verify", unit, filepath.Join(dir, "cleversocks.socket")); err != nil || strings.Contains(out, "cleversocks") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	ours := exposureOf(t, unit)
	if ours >= 1.5 {
		t.Errorf("exposure %.1f", ours)
	}
	for _, other := range []string{"danted", "squid", "tinyproxy", "privoxy", "haproxy"} {
		path := filepath.Join("/lib/systemd/system", other+".service")
		if _, err := os.Stat(path); err != nil {
			continue
		}
		level := exposureOf(t, path)
		t.Logf("%s %.1f, ours %.1f", other, level, ours)
		if level <= ours {
			t.Errorf("%s exposes less: %.1f, ours %.1f", other, level, ours)
		}
	}
}
