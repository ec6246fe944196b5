# The world in which a page of the documentation runs: world.sh SCRIPT, as the
# first process of new network, mount and process namespaces. WORLD names the
# files that it is made from, SCRATCH a folder for this page alone.
set -eu

# Files: /etc is a copy that the page may change; the folders that the daemon
# writes to are empty.
mount --make-rprivate /
mount -t proc proc /proc
cp -a /etc "$SCRATCH/etc"
mount --bind "$SCRATCH/etc" /etc
for dir in /var/lib /var/log /run; do mount -t tmpfs tmpfs $dir; done
mkdir -p /run/netns /var/lib/cleversocks /var/log/cleversocks
ln -s ../cleversocks.log /var/log/cleversocks/access.log
rm -rf /etc/cleversocks
cp -a "$WORLD/cleversocks" /etc/cleversocks
cp "$WORLD/hosts" /etc/hosts
cp "$WORLD/krb5.conf" /etc/krb5.conf
if [ -d "$WORLD/krb5kdc" ]; then
	cp -a "$WORLD/krb5kdc/." /etc/krb5kdc
	cp -a /etc/krb5kdc/database /var/lib/krb5kdc
fi
rm -f /etc/resolv.conf
echo "nameserver 11.22.33.80" > /etc/resolv.conf
cat /etc/cleversocks/ca.crt >> /etc/ssl/certs/ca-certificates.crt
echo "cleversocks:x:64999:" >> /etc/group
mount -t tmpfs tmpfs /usr/local/bin
cp "$WORLD/bin/cleversocks" /usr/local/bin/cleversocks
cp "$WORLD/bin/cleversocks" /usr/local/bin/provider
cp "$WORLD/bin/web" /usr/local/bin/web
mkdir "$SCRATCH/tmp"
cp "$1" "$SCRATCH/tmp/page.sh"
# The project may lie below /tmp, and stays where it is.
project=$PWD
mkdir /run/project
mount --bind "$project" /run/project
mount --bind "$SCRATCH/tmp" /tmp
mkdir -p "$project"
mount --bind /run/project "$project"
cd "$project"
mkdir /tmp/home
printf 'a password that somebody types' > /tmp/typed
GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE)
export GOCACHE GOMODCACHE HOME=/tmp/home PATH="/usr/local/bin:/usr/sbin:/sbin:$PATH"

# Network: this host, and another one that has the web server and the proxies
# of a provider.
ip link set lo up
ip link add eth1 type veth peer name eth2
ip link set eth1 up
ip netns add world
ip link add eth0 type veth peer name eth0 netns world
ip address add 192.0.2.1/24 dev eth0
ip link set eth0 up
ip route add local 198.51.100.0/24 dev lo
ip route add local 2001:db8:1::/64 dev lo
ip netns exec world sh -c 'ip link set lo up
  ip address add 192.0.2.2/24 dev eth0; ip link set eth0 up
  for a in 11.22.33.80 10.0.0.1 10.0.0.2; do ip address add $a/32 dev lo; done
  ip route add default via 192.0.2.1'
ip route add default via 192.0.2.2

# until_true CONDITION...: waits for a condition, half a minute at most.
until_true() {
	i=0
	while ! "$@"; do
		i=$((i + 1))
		[ $i -lt 300 ] || { cat /tmp/daemon.log /var/log/cleversocks.log >&2; echo "world: waited in vain for: $*" >&2; exit 1; }
		sleep 0.1
	done
}

# start PROGRAM ARGS...: starts the daemon beside the script, in place of the one
# before, and waits until it serves. Its log says when, at level debug.
start() {
	stop
	case "$*" in *--log-output*) : ;; *) set -- "$@" --log-output /tmp/daemon.log ;; esac
	exec 3<&0 # else a program in the background has /dev/null
	CLEVERSOCKS_LOG__LEVEL=debug "$@" <&3 3<&- &
	daemon=$!
	until_true serves "$@"
}
serves() {
	kill -0 "$daemon" || { cat /tmp/daemon.log /var/log/cleversocks.log >&2; echo "world: the daemon ended" >&2; exit 1; }
	grep -q 'msg=ready\|"msg":"ready"' /tmp/daemon.log /var/log/cleversocks.log 2>/dev/null
}

# loads_again FILE: what check prints of a configuration, check accepts, and prints
# the same of it.
loads_again() {
	cleversocks check --config "$1" > /tmp/once.toml
	cleversocks check --config - < /tmp/once.toml > /tmp/twice.toml
	sed -i 's/  # .*//' /tmp/once.toml /tmp/twice.toml
	diff /tmp/once.toml /tmp/twice.toml
}

# stop: ends the daemon as an operator does, and wants it to have gone well.
stop() {
	[ -n "${daemon:-}" ] || return 0
	# By name, since `go run` does not pass a signal on.
	kill $(pidof cleversocks) 2>/dev/null || { daemon=; return 0; }
	wait "$daemon" || { cat /tmp/daemon.log /var/log/cleversocks.log >&2; echo "world: the daemon ended with $?" >&2; exit 1; }
	until_true gone # a successor in an upgrade, too
	daemon= usual=
	rm -f /tmp/daemon.log /var/log/cleversocks.log
}

gone() { ! pidof cleversocks > /dev/null; }

# usual: the daemon of /etc/cleversocks/cleversocks.toml, if it does not run yet,
# after some hours of use.
usual() {
	[ "${usual:-}" != yes ] || ! kill -0 "$daemon" 2>/dev/null || return 0
	start cleversocks --config /etc/cleversocks/cleversocks.toml --log-output /var/log/cleversocks.log
	usual=yes
	busy
}

# busy: some of what a day brings: a tunnel that stays open, a refusal, a wrong
# password, an address that logged in once.
busy() {
	curl -sS -o /dev/null --proxy socks5h://alice:secret@127.0.0.1:1080 http://www.example.com/
	curl -s -o /dev/null --proxy socks5h://127.0.0.1:1080 http://mail.example.com:25/ || :
	(sleep 1000 | ncat --proxy 127.0.0.1:1080 --proxy-type http --proxy-auth alice:secret 11.22.33.80 80) > /tmp/ncat.log 2>&1 &
	curl -s -o /dev/null --proxy http://alice:wrong@127.0.0.1:1080 http://www.example.com/ || :
}

# realm: the key distribution centre of EXAMPLE.COM, with alice logged in, and a
# daemon that takes its tickets.
realm() {
	printf '[auth.gssapi]\nkeytab = "/etc/cleversocks/krb5.keytab"\n' >> /etc/cleversocks/cleversocks.toml
	krb5kdc -n > /tmp/kdc.log 2>&1 &
	log_in() { echo secret | kinit alice > /dev/null 2>&1; }
	until_true log_in
}
# systemctl reload cleversocks: there is no systemd in here.
systemctl() {
	[ "$1" = reload ] && kill -HUP $(pidof cleversocks)
}
# journalctl: what the daemon has logged.
journalctl() { cat /var/log/cleversocks.log; }
# What an administrator does from elsewhere is done on the spot here.
kadmin() { kadmin.local "$@"; }

ip netns exec world env CLEVERSOCKS_DOCS_WEB=1 web &
for a in 10.0.0.1 10.0.0.2; do
	ip netns exec world provider -i $a -p 1080 -u user -P secret -w 192.0.2.0/24 --admin "" -q &
done
web_answers() { curl -s -o /dev/null http://11.22.33.80/; }
until_true web_answers
provider_answers() { curl -s -o /dev/null --proxy socks5h://$1:1080 http://11.22.33.80/; }
for a in 10.0.0.1 10.0.0.2; do
	until_true provider_answers $a
done

. /tmp/page.sh
stop
