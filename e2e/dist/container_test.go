package dist

import (
	"crypto/x509"
	"encoding/json"
	"errors"
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

// goImage makes the image that the Dockerfile builds in: no registry is asked. Go,
// its modules and its cache are this machine's, and mounted (goMounts).
func (c *containers) goImage() string {
	c.t.Helper()
	t := c.t
	dir := t.TempDir()
	for _, sub := range []string{"bin", "usr/bin", "usr/local/go", "etc/ssl/certs", "go/cache", "go/pkg/mod", "tmp"} {
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
	run(t, "", nil, "cp", "/etc/ssl/certs/ca-certificates.crt", filepath.Join(dir, "etc/ssl/certs/"))
	image := c.run("buildah", "from", "scratch")
	c.run("buildah", "copy", "-q", image, dir, "/")
	c.run("buildah", "config", "--env", "PATH=/usr/local/go/bin:/bin:/usr/bin", "--env", "GOPATH=/go",
		"--env", "GOCACHE=/go/cache", "--env", "GOPROXY=off", "--env", "GOFLAGS=-mod=mod", "--env", "GONOSUMDB=*", image)
	c.run("buildah", "commit", "-q", "--rm", image, "localhost/golang")
	return "localhost/golang"
}

// goMounts are the options that mount Go where the image looks for it.
func goMounts(t *testing.T) []string {
	t.Helper()
	env := func(name string) string { return strings.TrimSpace(run(t, root(t), nil, "go", "env", name)) }
	return []string{"-v", env("GOROOT") + ":/usr/local/go:ro", "-v", env("GOMODCACHE") + ":/go/pkg/mod:ro", "-v", env("GOCACHE") + ":/go/cache"}
}

// The image is built by its Dockerfile, and runs as nobody on a root that
// cannot be written, with its configuration mounted.
func TestContainer(t *testing.T) {
	t.Parallel()
	c := newContainers(t)
	source := filepath.Join(t.TempDir(), "tree")
	run(t, "", nil, "git", "clone", "-q", "--no-hardlinks", root(t), source)
	run(t, root(t), nil, "go", "mod", "download")
	c.run("buildah", append(append([]string{"build", "-q", "--format", "docker", "--build-arg", "GO_IMAGE=" + c.goImage()}, goMounts(t)...), "-t", "localhost/cleversocks", source)...)

	// Nobody can log in yet: it says so, and does not serve an open proxy.
	flags := []string{"--network", "host", "--read-only", "--cap-drop", "all", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1000:1000"}
	out, err := c.try("podman", append(append([]string{"run", "--rm"}, flags...), "localhost/cleversocks")...)
	if err == nil || !strings.Contains(out, "nobody could log in") {
		t.Errorf("without users: %v\n%s", err, out)
	}

	// Its settings are in a folder that is mounted, as Kubernetes replaces them.
	config, admin := t.TempDir(), free(t)
	if err := os.Chmod(config, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(level string) {
		t.Helper()
		text := "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"" + admin + "\"\n[drain]\ntimeout = \"2s\"\n[log]\nformat = \"json\"\nlevel = \"" + level + "\"\n" +
			"[state]\ndirectory = \"/var/lib/cleversocks\"\n[acl]\nblock_private = false\n"
		data := filepath.Join(config, "..data_"+level)
		if err := os.Mkdir(data, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, "cleversocks.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		replaced := filepath.Join(config, "..next")
		if err := errors.Join(os.Symlink(filepath.Base(data), replaced), os.Rename(replaced, filepath.Join(config, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	write("info")
	if err := os.Symlink("..data/cleversocks.toml", filepath.Join(config, "cleversocks.toml")); err != nil {
		t.Fatal(err)
	}
	c.run("podman", append(append([]string{"run", "-d", "--name", "cs", "--env", "TZ=Asia/Kolkata", "-v", config + ":/etc/cleversocks:ro"}, flags...), "localhost/cleversocks")...)
	listens := c.logged("cs", "proxy listens")
	if !strings.HasSuffix(listens["time"], "+05:30") {
		t.Errorf("it does not know the time zone: %s", listens["time"])
	}
	if user := c.run("podman", "inspect", "cs", "--format", "{{.Config.User}}"); user != "65532:65532" {
		t.Errorf("it runs as %s", user)
	}
	if out := c.run("podman", "inspect", "localhost/cleversocks", "--format", "{{.HealthCheck.Test}}"); !strings.Contains(out, "healthcheck") {
		t.Errorf("health check: %q", out)
	}
	await(t, "it is ready", func() bool {
		out, err := try(t, "", nil, "curl", "-s", "-m", "20", "http://"+admin+"/readyz")
		return err == nil && strings.HasPrefix(out, "ready")
	})
	c.run("podman", "healthcheck", "run", "cs") // as it stands in the image
	sandbox, _, _ := strings.Cut(run(t, "", nil, "curl", "-s", "-m", "20", "http://"+admin+"/status"), "\n}")
	confined(t, strings.NewReplacer(" ", "", "\n", "").Replace(sandbox))
	c.knowsAuthorities()
	write("debug")
	c.run("podman", "kill", "-s", "HUP", "cs")
	c.logged("cs", "reloaded")
	if out := run(t, "", nil, "curl", "-s", "-m", "20", "http://"+admin+"/status"); !strings.Contains(out, `"log_level": "debug"`) {
		t.Errorf("the settings that took their place: %s", out)
	}

	// A tunnel that is open holds the stop up until the drain's time is over,
	// and the end is a clean one.
	conn, err := net.Dial("tcp", listens["address"])
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

// knowsAuthorities holds the image to certificates of authorities.
func (c *containers) knowsAuthorities() {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "authorities")
	c.run("podman", "cp", "cs:/etc/ssl/certs/ca-certificates.crt", file)
	text, err := os.ReadFile(file)
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(text) {
		c.t.Errorf("authorities: %v", err)
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
				at, _ := fields["time"].(string)
				return map[string]string{"address": address, "time": at}
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s never said %q: %v\n%s", name, message, err, out)
		}
		<-time.After(50 * time.Millisecond)
	}
}
