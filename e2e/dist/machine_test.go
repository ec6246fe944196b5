package dist

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// outside makes a machine out of this one: its files under an overlay for the
// changes, and every other thing by a namespace of its own. What systemd makes of
// control groups is kept in one, which is taken away at the end.
const outside = `
set -e
layers=$DIR/layers
mkdir $layers
mount -t tmpfs tmpfs $layers
mkdir $layers/upper $layers/work $layers/root $layers/groups
cp -a $DIR/files/. $layers/upper
mount -t cgroup2 none $layers/groups
here=$layers/groups$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir $here/cleversocks-test-$$
echo $$ > $here/cleversocks-test-$$/cgroup.procs
unshare --pid --fork --mount --uts --net --cgroup --ipc --kill-child sh $DIR/boot.sh $layers &
trap "kill -9 $!" TERM
set +e
wait
wait
echo $$ > $here/cgroup.procs
for i in $(seq 50); do
	find $here/cleversocks-test-$$ -depth -type d -exec rmdir {} + 2>/dev/null && break
	sleep 0.1
done
`

// boot starts systemd in the machine. Its own units are there, but none of them
// starts by itself, the journal apart: some would change the kernel's settings. The
// script's log is $DIR/out, and systemd's $DIR/kmsg.
const boot = `
set -e
root=$1/root
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $root
mount -t proc proc $root/proc
mount -t sysfs -o ro sysfs $root/sys
mount -t cgroup2 none $root/sys/fs/cgroup
mount -t tmpfs tmpfs $root/dev
for node in null zero full random urandom tty; do
	touch $root/dev/$node
	mount --bind /dev/$node $root/dev/$node
done
touch $DIR/kmsg $root/dev/kmsg
mount --bind $DIR/kmsg $root/dev/kmsg
mkdir $root/dev/shm $root/dev/pts $root/dev/mqueue $root/dev/hugepages
mount -t devpts devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
mount -t tmpfs tmpfs $root/tmp
mount -t tmpfs tmpfs $root/run
mount --bind $DIR $root/mnt
cd $root
mkdir -p old
pivot_root . old
umount -l /old
ip link set lo up
mkdir -p /run/systemd/system
rm -rf /lib/systemd/system/*.wants /etc/systemd/system/*.wants /lib/systemd/system-generators
for target in test sysinit basic network-online nss-lookup; do
	printf '[Unit]\nDefaultDependencies=no\n' > /etc/systemd/system/$target.target
done
echo Wants=systemd-journald.socket systemd-journald-dev-log.socket >> /etc/systemd/system/test.target
export container=docker
sh /mnt/inside.sh > /mnt/out 2>&1 &
exec /lib/systemd/systemd --system --unit=test.target --log-target=kmsg --show-status=no
`

// helpers are what the scripts have in the machine: each prints a fact, a line
// "what: is", or waits for one.
const helpers = `
ctl() { timeout 60 systemctl --no-pager "$@"; }
fact() { echo "$1: $2"; }
shows() { fact "$1" "$(ctl show cleversocks.service -p $2 --value)"; }
main() { ctl show cleversocks.service -p MainPID --value; }
says() { for i in $(seq 300); do [ "$(journalctl -q --no-pager -o cat -u cleversocks.service | grep -c "$1")" -ge "$2" ] && return; sleep 0.1; done; fact never "$1"; }
greets() { fact "$1" "$(bash -c "exec 3<>/dev/tcp/127.0.0.1/$2"' && printf "\5\1\0" >&3 && timeout 20 head -c 2 <&3 | od -An -tx1')"; }
until [ -S /run/systemd/private ]; do sleep 0.1; done
`

// inMachine runs a script in such a machine, which has more files, by their paths
// there, and gives the facts that it printed.
func inMachine(t *testing.T, files map[string]string, script string) map[string]string {
	t.Helper()
	need.Root(t)
	need.Program(t, "/lib/systemd/systemd", "systemd")
	dir := t.TempDir()
	for path, from := range files {
		into := filepath.Join(dir, "files", path)
		if err := os.MkdirAll(filepath.Dir(into), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "", nil, "cp", from, into)
	}
	for name, text := range map[string]string{"outside.sh": outside, "boot.sh": boot, "inside.sh": helpers + script + "\necho end\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, need.Program(t, "unshare", "util-linux"), "--mount", "sh", filepath.Join(dir, "outside.sh"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	cmd.Env = append(os.Environ(), "DIR="+dir)
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		return string(text)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	for !strings.HasSuffix(said("out"), "\nend\n") && ctx.Err() == nil {
		select {
		case <-ended:
			cancel()
		case <-time.After(50 * time.Millisecond):
		}
	}
	cancel()
	<-ended
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the script:\n%s\nthe console:\n%s\nsystemd:\n%s", said("out"), said("console"), said("kmsg"))
		}
	})
	facts := make(map[string]string)
	for line := range strings.Lines(said("out")) {
		if what, is, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			facts[what] = strings.TrimSpace(is)
		}
	}
	return facts
}

// hold compares facts.
func hold(t *testing.T, facts, want map[string]string) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(want)) {
		if facts[what] != want[what] || want[what] == "" {
			t.Errorf("%s: %q, want %q", what, facts[what], want[what])
		}
	}
	if never := facts["never"]; never != "" {
		t.Errorf("never said: %s", never)
	}
}
