package dist

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// containers runs podman and buildah, with a storage of the test's own.
type containers struct {
	t       *testing.T
	env     []string
	options []string
}

func newContainers(t *testing.T) *containers {
	t.Helper()
	need.Root(t)
	need.Program(t, "buildah", "buildah")
	need.Program(t, "podman", "podman")
	store := t.TempDir()
	c := &containers{
		t: t, env: []string{"STORAGE_DRIVER=vfs", "BUILDAH_ISOLATION=chroot"},
		options: []string{"--root", filepath.Join(store, "root"), "--runroot", filepath.Join(store, "run")},
	}
	t.Cleanup(func() { _, _ = c.try("podman", "rm", "--all", "--force") }) // so that the folder can go
	return c
}

func (c *containers) try(program string, args ...string) (string, error) {
	options := c.options
	if program == "podman" {
		options = append([]string{"--runtime", need.Program(c.t, "runc", "runc"), "--cgroup-manager", "cgroupfs"}, options...)
	}
	cmd := exec.Command(program, append(options, args...)...)
	cmd.Env = append(os.Environ(), c.env...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (c *containers) run(program string, args ...string) string {
	c.t.Helper()
	out, err := c.try(program, args...)
	if err != nil {
		c.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

// goImage makes the image that the Dockerfile builds in from this machine's
// Go: no registry is asked.
func (c *containers) goImage() string {
	c.t.Helper()
	t := c.t
	dir := t.TempDir()
	for _, sub := range []string{"bin", "usr/bin", "usr/local", "etc/ssl/certs", "go", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", nil, "cp", need.Program(t, "busybox", "busybox-static"), filepath.Join(dir, "bin/busybox"))
	for _, applet := range []string{"sh", "mkdir", "cp"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", nil, "cp", "-a", strings.TrimSpace(run(t, "", nil, "go", "env", "GOROOT")), filepath.Join(dir, "usr/local/go"))
	run(t, "", nil, "cp", "/etc/ssl/certs/ca-certificates.crt", filepath.Join(dir, "etc/ssl/certs/"))
	image := c.run("buildah", "from", "scratch")
	c.run("buildah", "copy", "-q", image, dir, "/")
	c.run("buildah", "config", "--env", "PATH=/usr/local/go/bin:/bin:/usr/bin", "--env", "GOPATH=/go",
		"--env", "GOCACHE=/go/cache", "--env", "GOPROXY=off", "--env", "GOFLAGS=-mod=mod", "--env", "GONOSUMDB=*", image)
	c.run("buildah", "commit", "-q", "--rm", image, "localhost/golang")
	return "localhost/golang"
}

// The image is built by its Dockerfile, and runs as nobody on a root that
// cannot be written, with its configuration mounted.
func TestContainer(t *testing.T) {
	c := newContainers(t)
	source := filepath.Join(t.TempDir(), "tree")
	run(t, "", nil, "git", "clone", "-q", "--no-hardlinks", root(t), source)
	modules := strings.TrimSpace(run(t, root(t), nil, "go", "env", "GOMODCACHE"))
	run(t, root(t), nil, "go", "mod", "download")
	c.run("buildah", "build", "-q", "--format", "docker", "--build-arg", "GO_IMAGE="+c.goImage(),
		"-v", modules+":/go/pkg/mod:ro", "-t", "localhost/cleversocks", source)

	// Nobody can log in yet: it says so, and does not serve an open proxy.
	flags := []string{"--network", "host", "--read-only", "--cap-drop", "all", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1000:1000"}
	out, err := c.try("podman", append(append([]string{"run", "--rm"}, flags...), "localhost/cleversocks")...)
	if err == nil || !strings.Contains(out, "nobody could log in") {
		t.Errorf("without users: %v\n%s", err, out)
	}

	config := filepath.Join(t.TempDir(), "cleversocks.toml")
	write := func(level string) {
		t.Helper()
		text := "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[drain]\ntimeout = \"2s\"\n[log]\nformat = \"json\"\nlevel = \"" + level + "\"\n"
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("info")
	c.run("podman", append(append([]string{"run", "-d", "--name", "cs", "-v", config + ":/etc/cleversocks/cleversocks.toml:ro"}, flags...), "localhost/cleversocks")...)
	address := c.logged("cs", "proxy listens")["address"]
	if user := c.run("podman", "inspect", "cs", "--format", "{{.Config.User}}"); user != "65532:65532" {
		t.Errorf("it runs as %s", user)
	}
	if out := c.run("podman", "inspect", "localhost/cleversocks", "--format", "{{.HealthCheck.Test}}"); !strings.Contains(out, "healthcheck") {
		t.Errorf("health check: %q", out)
	}
	write("debug")
	c.run("podman", "kill", "-s", "HUP", "cs")
	c.logged("cs", "reloaded")

	// A tunnel that is open holds the stop up until the drain's time is over,
	// and the end is a clean one.
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.run("podman", "stop", "-t", "30", "cs")
	c.logged("cs", "stopped")
	if code := c.run("podman", "inspect", "cs", "--format", "{{.State.ExitCode}}"); code != "0" {
		t.Errorf("exit status %s", code)
	}
}

// logged waits for a line in a container's log.
func (c *containers) logged(name, message string) map[string]string {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		out, err := c.try("podman", "logs", name)
		for line := range strings.SplitSeq(out, "\n") {
			var fields map[string]any
			if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == message {
				address, _ := fields["address"].(string)
				return map[string]string{"address": address}
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s never said %q: %v\n%s", name, message, err, out)
		}
		<-time.After(50 * time.Millisecond)
	}
}
