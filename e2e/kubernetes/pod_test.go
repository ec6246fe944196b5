package kubernetes

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
)

// patience bounds waits for what happens at once on an idle machine.
const patience = 60 * time.Second

// enter has the pod's root in place of this one's, read-only, in namespaces of its
// own, and starts the container's command there as its user: process 1, without
// capabilities.
const enter = `
set -e
root=$1
shift
mount --make-rprivate /
mount --bind $root $root
mount -o remount,bind,ro $root
mount -t proc proc $root/proc
for volume in $VOLUMES; do
	mount --bind $DIR/volumes$volume $root$volume
	mount -o remount,bind,ro $root$volume
done
ip link set lo up
exec setpriv --no-new-privs chroot --userspec=$USER_IDS --groups= $root "$@"
`

// pod is the Deployment's container, run as a kubelet would, but for the runtime.
type pod struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	spec core.PodSpec
	all  objects

	mu  sync.Mutex
	log bytes.Buffer
}

func (p *pod) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *pod) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// shared is a folder for what several tests need.
var shared string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cleversocks-pod-")
	if err != nil {
		panic(err)
	}
	shared = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// built is the program as the image has it.
var built = sync.OnceValues(func() (string, error) {
	path := filepath.Join(shared, "cleversocks")
	cmd := exec.Command("go", "build", "-C", "../..", "-trimpath", "-o", path, "./cmd/cleversocks")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// publish writes a volume as a kubelet does: the files are links through "..data" to
// a folder with the time's name, and "..data" is replaced by a rename.
func (p *pod) publish(mount string, files map[string]string) {
	p.t.Helper()
	at := filepath.Join(p.dir, "volumes", mount)
	name := "..2026_11_29_" + strconv.FormatInt(time.Now().UnixNano(), 10)
	p.try(os.MkdirAll(filepath.Join(at, name), 0o755))
	for file, text := range files {
		p.try(os.WriteFile(filepath.Join(at, name, file), []byte(text), 0o444))
		if link := filepath.Join(at, file); os.Symlink(filepath.Join("..data", file), link) != nil {
			if _, err := os.Readlink(link); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	old, _ := os.Readlink(filepath.Join(at, "..data"))
	p.try(os.Symlink(name, filepath.Join(at, "..data_tmp")))
	p.try(os.Rename(filepath.Join(at, "..data_tmp"), filepath.Join(at, "..data")))
	if old != "" {
		p.try(os.RemoveAll(filepath.Join(at, old)))
	}
}

func (p *pod) try(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func startPod(t *testing.T, all objects, users string) *pod {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces")
	}
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t: t, dir: t.TempDir(), all: all, spec: get[*apps.Deployment](t, all).Spec.Template.Spec}
	root := filepath.Join(p.dir, "root")
	for _, dir := range []string{"usr/bin", "proc", "etc", "tmp", "var/lib/cleversocks"} {
		p.try(os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	p.try(os.Chmod(p.dir, 0o755))
	run(t, "", "cp", program, filepath.Join(root, "usr/bin/cleversocks"))
	c := p.spec.Containers[0]
	var mounts []string
	for _, m := range c.VolumeMounts {
		p.try(os.MkdirAll(filepath.Join(root, m.MountPath), 0o755))
		mounts = append(mounts, m.MountPath)
		p.publish(m.MountPath, p.files(m.Name, users))
	}
	p.cmd = exec.Command("unshare", append([]string{"--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", enter, "sh", root, "/usr/bin/cleversocks"}, c.Args...)...)
	who := p.spec.SecurityContext
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DIR=" + p.dir, "VOLUMES=" + strings.Join(mounts, " "), fmt.Sprintf("USER_IDS=%d:%d", *who.RunAsUser, *who.RunAsGroup)}
	for _, e := range c.Env {
		p.cmd.Env = append(p.cmd.Env, e.Name+"="+e.Value)
	}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.try(p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil { // process 1 first: what changes its user outlives its parent
			_ = syscall.Kill(p.pid(), syscall.SIGKILL)
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("it said:\n%s", p.said())
		}
	})
	return p
}

// files are those of a volume.
func (p *pod) files(volume, users string) map[string]string {
	for _, v := range p.spec.Volumes {
		if v.Name == volume && v.ConfigMap != nil {
			return get[*core.ConfigMap](p.t, p.all).Data
		}
	}
	return map[string]string{"users": users}
}

func (p *pod) await(what string, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			p.t.Fatalf("never: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (p *pod) says(text string, times int) {
	p.t.Helper()
	p.await(text, func() bool { return strings.Count(p.said(), text) >= times })
}

// pid is the container's process 1, as this machine numbers it.
func (p *pod) pid() (pid int) {
	p.t.Helper()
	p.await("a process", func() bool {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.cmd.Process.Pid))
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(raw)))
		}
		return err == nil
	})
	return pid
}

// curl asks from inside of the pod's network.
func (p *pod) curl(args ...string) string {
	p.t.Helper()
	out, _ := exec.Command("nsenter", append([]string{"--net", "--target", strconv.Itoa(p.pid()), "curl", "-sS", "-m", "30"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out))
}

// probe asks as a probe does, and gives the status.
func (p *pod) probe(of *core.Probe) string {
	p.t.Helper()
	for _, port := range p.spec.Containers[0].Ports {
		if port.Name == of.HTTPGet.Port.StrVal {
			return p.curl("-o", os.DevNull, "-w", "%{http_code}", fmt.Sprintf("http://127.0.0.1:%d%s", port.ContainerPort, of.HTTPGet.Path))
		}
	}
	p.t.Fatalf("the container has no port %v", of.HTTPGet.Port)
	return ""
}

// What is rendered is started: the daemon takes its configuration, answers the
// probes, lets in whom the secret names, has the metric that the autoscaler asks
// for, sees what a kubelet puts in the place of a file, and ends within its time.
func TestPod(t *testing.T) {
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	alice := "alice:" + run(t, "secret", program, "hash") + "\n"
	for name, all := range map[string]objects{"kustomize": kustomized(t), "helm": templated(t, "drain: {delay: 1, timeout: 1}\nconfig: |\n  [[acl.rule]]\n  users = [\"alice\", \"bob\"]\n  action = \"allow\"\n")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPod(t, all, alice)
			c := p.spec.Containers[0]
			for what, probe := range map[string]*core.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
				p.await(what, func() bool { return p.probe(probe) == "200" })
			}
			p.confined()
			if metric := get[*autoscaling.HorizontalPodAutoscaler](t, all).Spec.Metrics[0].Pods.Metric.Name; !strings.Contains(p.curl("http://127.0.0.1:9180/metrics"), "\n"+metric+"{") {
				t.Errorf("there is no metric %s", metric)
			}
			ask := func(user string) string {
				return p.curl("--proxy", "socks5://"+user+":secret@127.0.0.1:1080", "http://127.0.0.1:9180/")
			}
			// block_private: what is behind the log-in is refused.
			if out := ask("alice"); !strings.Contains(out, "(2)") {
				t.Errorf("alice: %s", out)
			}
			if out := ask("bob"); !strings.Contains(out, "rejected by the SOCKS5 server") {
				t.Errorf("bob: %s", out)
			}
			p.publish("/run/secrets/cleversocks", map[string]string{"users": alice + strings.Replace(alice, "alice", "bob", 1)})
			p.try(syscall.Kill(p.pid(), syscall.SIGHUP))
			p.says(`"msg":"reloaded"`, 1)
			if out := ask("bob"); !strings.Contains(out, "(2)") {
				t.Errorf("bob, later: %s", out)
			}
			if name == "helm" { // the base has its ten seconds
				p.ends()
			}
		})
	}
}

// confined holds the process to what the pod's security context and the sandbox
// promise.
func (p *pod) confined() {
	p.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	p.try(err)
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "NSpid:\t" + strconv.Itoa(p.pid()) + "\t1"} {
		if !strings.Contains(string(raw), want+"\n") {
			p.t.Errorf("no %q in\n%s", want, raw)
		}
	}
	if out := p.curl("http://127.0.0.1:9180/status"); !strings.Contains(out, `"landlock": "files (version `) || !strings.Contains(out, `"seccomp": true`) {
		p.t.Error(out)
	}
}

// ends is what a kubelet does at the end: it is not ready, but lets clients in
// while the delay lasts, and is gone before the grace period is over.
func (p *pod) ends() {
	p.t.Helper()
	started := time.Now()
	p.try(syscall.Kill(p.pid(), syscall.SIGTERM))
	err := p.cmd.Wait()
	if took := time.Since(started); err != nil || took > time.Duration(*p.spec.TerminationGracePeriodSeconds)*time.Second {
		p.t.Errorf("it ended after %s: %v", took, err)
	}
	p.says(`"msg":"stopped"`, 1)
}
