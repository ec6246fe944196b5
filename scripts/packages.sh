#!/bin/sh
# Installs the Debian packages given as arguments that are not there yet, with
# one apt-get call each for the lists and for the packages. The services in them
# are not started: the tests start what they need, on ports of their own.
set -eu
missing=""
for package in "$@"; do
	dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "The tests need these programs. As root: apt-get install$missing" >&2
	exit 1
fi
if [ ! -e /usr/sbin/policy-rc.d ]; then # invoke-rc.d(8) asks it
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086
apt-get install -qy --no-install-recommends $missing
