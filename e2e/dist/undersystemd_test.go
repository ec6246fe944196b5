package dist

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// outside keeps what systemd makes of control groups in one of its own, and
// takes that away when it is told to end.
const outside = `
groups=$DIR/groups
mkdir $groups
mount -t cgroup2 none $groups || exit 1
here=$groups$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir $here/cleversocks-test-$$
echo $$ > $here/cleversocks-test-$$/cgroup.procs
unshare --pid --fork --mount --uts --net --cgroup --ipc --mount-proc --kill-child sh $DIR/inside.sh &
trap "kill -9 $!" TERM
wait
wait
echo $$ > $here/cgroup.procs
for i in $(seq 50); do
	find $here/cleversocks-test-$$ -depth -type d -exec rmdir {} + && break
	sleep 0.1
done
`

// inside makes a machine of the namespaces that it runs in: systemd is its first
// process, and has the shipped units and nothing else. What systemctl says of
// each step goes to $OUT.
const inside = `
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
units=/run/systemd/system
mkdir -p $units/cleversocks.service.d $units/cleversocks.socket.d
printf '[Unit]\nDefaultDependencies=no\n' > $units/test.target
cp $SHIPPED/cleversocks.service $SHIPPED/cleversocks.socket $units
# Without the system's own units, its users, and an installed program.
cat > $units/cleversocks.service.d/test.conf <<END
[Unit]
DefaultDependencies=no
Wants=
[Service]
ExecStart=
ExecStart=$PROGRAM --config $CONFIG
StandardError=append:$OUT.log
WatchdogSec=2s
User=root
DynamicUser=no
PrivateTmp=no
ConfigurationDirectory=
StateDirectory=
LogsDirectory=
ProtectSystem=no
END
printf '[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=\nListenStream=127.0.0.1:21080\n' > $units/cleversocks.socket.d/test.conf
export container=docker
(
	until [ -S /run/systemd/private ]; do sleep 0.1; done
	ctl() { timeout 30 systemctl --no-pager "$@"; }
	shows() { echo "$1: $(ctl show cleversocks.service -p $2 --value)"; }
	greets() { echo "$1: $(bash -c 'exec 3<>/dev/tcp/127.0.0.1/21080 && printf "\5\1\0" >&3 && timeout 20 head -c 2 <&3 | od -An -tx1')"; }
	says() { for i in $(seq 200); do [ "$(grep -c "$1" $OUT.log)" -ge "$2" ] && return; sleep 0.1; done; echo "never: $1"; }
	ctl start cleversocks.socket
	greets activated
	shows "first is" MainPID
	ctl kill --kill-whom=main --signal=USR2 cleversocks.service
	says upgraded 1
	says 'predecessor has ended' 1
	main=$(ctl show cleversocks.service -p MainPID --value)
	echo "second is: $main"
	echo "its parent: $(cut -d' ' -f4 /proc/$main/stat)"
	greets upgraded
	ctl reload cleversocks.service && echo "reload: ok"
	sleep 5 # more than two of the watchdog's intervals
	shows "after watching" MainPID
	shows restarts NRestarts
	ctl stop cleversocks.service && shows stopped Result
	greets "activated again"
	ctl kill --kill-whom=main --signal=USR2 cleversocks.service
	says upgraded 2
	kill -9 $(ctl show cleversocks.service -p MainPID --value)
	for i in $(seq 100); do [ "$(ctl show cleversocks.service -p NRestarts --value)" = 1 ] && break; sleep 0.1; done
	shows "restarts after a crash" NRestarts
	greets "after a crash"
	echo end
) > $OUT 2>&1 &
exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
`

// TestUnderSystemd is a life of the shipped units under systemd itself: sockets
// that it holds, an upgrade that it follows by MAINPID with its watchdog, a stop
// after which the socket's next client starts the service again, and a crash of
// a successor that it notices, as the successor is its child.
func TestUnderSystemd(t *testing.T) {
	need.Root(t)
	unshare := need.Program(t, "unshare", "util-linux")
	need.Program(t, "/lib/systemd/systemd", "systemd")
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	for name, text := range map[string]string{"outside.sh": outside, "inside.sh": inside} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "cleversocks")
	run(t, root(t), nil, "go", "build", "-o", program, "./cmd/cleversocks")
	config := configuration(t, "[[listener]]\naddress = 'systemd:proxy'\n[admin]\naddress = ''\n")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, unshare, "--mount", "sh", filepath.Join(dir, "outside.sh"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	cmd.Env = append(os.Environ(), "DIR="+dir, "OUT="+out, "PROGRAM="+program, "CONFIG="+config, "SHIPPED="+filepath.Join(root(t), "dist", "systemd"))
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := func() string {
		text, _ := os.ReadFile(out)
		return string(text)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	for !strings.HasSuffix(said(), "\nend\n") && ctx.Err() == nil {
		select {
		case <-ended:
			cancel()
		case <-time.After(100 * time.Millisecond):
		}
	}
	cancel()
	<-ended
	facts := make(map[string]string)
	for line := range strings.Lines(said()) {
		if what, is, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			facts[what] = strings.TrimSpace(is)
		}
	}
	for what, want := range map[string]string{
		"activated": "05 00", "its parent": "1", "upgraded": "05 00", "reload": "ok", "after watching": facts["second is"], "restarts": "0",
		"stopped": "success", "activated again": "05 00", "restarts after a crash": "1", "after a crash": "05 00",
	} {
		if facts[what] != want || want == "" {
			t.Errorf("%s: %q, want %q", what, facts[what], want)
		}
	}
	if facts["first is"] == facts["second is"] {
		t.Error("the main process is the same after an upgrade")
	}
	if t.Failed() {
		log, _ := os.ReadFile(out + ".log")
		screen, _ := os.ReadFile(console.Name())
		t.Logf("systemctl:\n%s\nthe daemon:\n%s\nsystemd:\n%s", said(), log, screen)
	}
}
