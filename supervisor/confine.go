package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/sandbox"
	"cleversocks/supervisor/upgrade"
)

// confinement is the sandbox of this process: see package sandbox.
type confinement struct {
	log     *slog.Logger
	program string                        // what an upgrade starts; "": none is
	inForce atomic.Pointer[sandbox.State] // nil: not entered yet
}

// Directories that the daemon reads whatever the settings are: certificates of
// authorities, time zones, and what the kernel tells.
var systemDirectories = []string{
	"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
	"/usr/share/zoneinfo", "/proc", "/sys/fs/cgroup",
	// Where resolv.conf may lead to tomorrow: who manages it may change.
	"/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf",
}

// loaderDirectories are those that a program with shared libraries starts from.
var loaderDirectories = []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64"}

// interpreterDirectories are for whoever puts a script in the place of the
// program. Where the mode is "on" an upgrade starts programs alone.
var interpreterDirectories = append([]string{"/bin", "/usr/bin"}, loaderDirectories...)

// planOf is what the daemon keeps: what the settings name, and what it needs of the
// system whatever they are. Of the latter much is not there on every machine.
func planOf(cfg *config.Config, program string) sandbox.Plan {
	p := namedPlan(cfg)
	p.Read = append(p.Read, systemDirectories...)
	for _, name := range []string{"SSL_CERT_DIR", "ZONEINFO"} {
		if dir := os.Getenv(name); dir != "" {
			p.Read = append(p.Read, filepath.SplitList(dir)...)
		}
	}
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		p.Read = append(p.Read, sandbox.Directories(file)...)
	}
	// Other programs replace these files, and a reload may ask for them.
	p.Read = append(p.Read, sandbox.Directories("/etc/resolv.conf")...)
	p.Read = append(p.Read, sandbox.Directories("/etc/hosts")...)
	if program != "" && os.Getpid() != 1 { // PID 1 has no successor
		p.Execute = sandbox.Directories(program)
		if cfg.Sandbox.Landlock != string(sandbox.On) {
			p.Execute = append(p.Execute, interpreterDirectories...)
		}
		if maps, err := os.ReadFile("/proc/self/maps"); err == nil && strings.Contains(string(maps), ".so") {
			p.Execute = append(p.Execute, loaderDirectories...)
		}
	}
	return p
}

// namedPlan is what the settings name.
func namedPlan(cfg *config.Config) (p sandbox.Plan) {
	for _, f := range cfg.Files() {
		dirs := []string{f.Path}
		if !f.Dir {
			dirs = sandbox.Directories(f.Path)
		}
		if f.Written {
			p.Write = append(p.Write, dirs...)
		} else {
			p.Read = append(p.Read, dirs...)
		}
	}
	addresses := []config.ListenAddress{cfg.Admin.Address.ListenAddress}
	for _, l := range cfg.Listeners {
		addresses = append(addresses, l.Address)
	}
	for _, a := range addresses {
		switch {
		case strings.HasPrefix(a.Socket, "@"), a.Systemd != "":
		case a.Socket != "":
			p.Sockets = append(p.Sockets, filepath.Dir(a.Socket))
		default:
			p.Ports = append(p.Ports, sandbox.Ports{Low: a.AddrPort.Port(), High: a.AddrPort.Port()})
		}
	}
	if b := cfg.Bind.Ports; b.Last > 0 {
		p.Ports = append(p.Ports, sandbox.Ports{Low: b.First, High: b.Last})
	}
	return p
}

// lacking is what the settings name and a sandbox has not. Directories of the system
// do not count: certificates of authorities that were installed since the start must
// not keep anybody from reloading.
func lacking(s *sandbox.State, cfg *config.Config) []string {
	if s.Landlock == 0 {
		return nil
	}
	want := namedPlan(cfg)
	if !s.Ports {
		want.Ports = nil
	}
	return s.Plan.Beyond(want)
}

func sandboxOptions(cfg *config.Config, program string) sandbox.Options {
	return sandbox.Options{
		Landlock: sandbox.Mode(cfg.Sandbox.Landlock), Seccomp: sandbox.Mode(cfg.Sandbox.Seccomp),
		CoreDumps: cfg.Sandbox.CoreDumps, Plan: planOf(cfg, program),
	}
}

// checkSandbox finds what the settings want and this system lacks.
func checkSandbox(cfg *config.Config, found *faults) {
	if _, err := sandbox.Possible(sandboxOptions(cfg, "")); err != nil {
		key := "sandbox.landlock"
		if strings.HasPrefix(err.Error(), "seccomp") {
			key = "sandbox.seccomp"
		}
		found.add(key, err)
	}
}

// noteSandbox tells `check` what would be in force.
func noteSandbox(cfg *config.Config, program string, notes map[string]string) {
	s, err := sandbox.Possible(sandboxOptions(cfg, program))
	if err != nil {
		return // it is told as a fault
	}
	notes["sandbox.landlock"] = s.LandlockText()
	if s.Landlock > 0 {
		notes["sandbox.landlock"] += ": " + s.PlanText()
	}
	notes["sandbox.seccomp"] = map[bool]string{true: "on", false: "off"}[s.Seccomp]
}

// errConfined is wrapped where a sandbox cannot do what its mode promises.
var errConfined = errors.New("the sandbox")

// enter gives up what is not needed. A successor is in its predecessor's sandbox
// already, which cannot be left: a second one on top of it would be counted, and
// the kernel allows sixteen.
func (c *confinement) enter(ctx context.Context, cfg *config.Config, from *upgrade.Predecessor) error {
	o := sandboxOptions(cfg, c.program)
	if s, ok := sandboxOf(from); ok {
		c.inForce.Store(&s)
		if lacks := lacking(&s, cfg); len(lacks) > 0 {
			c.log.LogAttrs(ctx, slog.LevelWarn, "restart needed: the predecessor's sandbox stays, and lacks what the settings name",
				slog.String("lacks", strings.Join(lacks, ", ")))
		}
		if changed := s.Landlock > 0 && o.Landlock == sandbox.Off || s.Seccomp && o.Seccomp == sandbox.Off; changed {
			c.log.LogAttrs(ctx, slog.LevelWarn, "restart needed: the predecessor's sandbox stays until then")
		}
		return nil
	}
	if err := makeCaches(cfg); err != nil {
		return err
	}
	s, err := sandbox.Enter(o)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfined, err)
	}
	c.inForce.Store(&s)
	c.log.LogAttrs(ctx, slog.LevelDebug, "sandbox", slog.String("landlock", s.LandlockText()), slog.Bool("seccomp", s.Seccomp), slog.Bool("core_dumps", s.Cores))
	return nil
}

// makeCaches makes the directories of certificates that ACME gets, which nobody
// makes by hand: they could not be made later. All others that are written have to
// be there (Verify), or a misspelt one would be made.
func makeCaches(cfg *config.Config) error {
	for i, l := range cfg.Listeners {
		dir := l.TLS.ACME.Cache
		if dir == "" {
			continue
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("listener[%d].tls.acme.cache: %w", i, err)
		}
	}
	return nil
}

// sandboxOf is the sandbox of the process that has started this one.
func sandboxOf(from *upgrade.Predecessor) (s sandbox.State, ok bool) {
	if from == nil || json.Unmarshal(from.Hello.Sandbox, &s) != nil {
		return s, false // of a version before there was one
	}
	s.Inherited = true
	return s, s.Landlock > 0 || s.Seccomp
}

// state is for a successor; nil: there is none.
func (c *confinement) state() json.RawMessage {
	s := c.inForce.Load()
	if s == nil {
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil
	}
	return text
}

// Prepare refuses settings that reach out of the sandbox: half of them would
// fail with "permission denied", and some only later.
func (c *confinement) Prepare(_ context.Context, d *draft) (change, error) {
	s := c.inForce.Load()
	if s == nil {
		return nil, nil //nolint:nilnil // nothing to commit
	}
	if lacks := lacking(s, d.cfg); len(lacks) > 0 {
		return nil, fmt.Errorf("restart needed: these settings reach out of the sandbox that the process entered at its start, which lacks %s", strings.Join(lacks, ", "))
	}
	return nil, nil //nolint:nilnil // nothing to commit
}

// explain adds to an error of reading the settings that the sandbox may be why.
func (c *confinement) explain(err error) error {
	if c == nil {
		return err
	}
	s := c.inForce.Load()
	if err == nil || s == nil || s.Landlock == 0 || !errors.Is(err, fs.ErrPermission) && !strings.Contains(err.Error(), fs.ErrPermission.Error()) {
		return err
	}
	return fmt.Errorf("%w (restart needed, if the file is outside of the directories that the process keeps in its sandbox: it %s)", err, s.PlanText())
}

// status is the sandbox for operators.
func (c *confinement) status() admin.Sandbox {
	s := c.inForce.Load()
	if s == nil {
		return admin.Sandbox{Landlock: "off", CoreDumps: true}
	}
	return admin.Sandbox{Landlock: s.LandlockText(), Seccomp: s.Seccomp, CoreDumps: s.Cores, Inherited: s.Inherited}
}
