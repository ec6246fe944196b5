#!/bin/sh
# Makes the user that the configuration's group is. The unit's DynamicUser
# takes the one that is there.
set -e
getent group cleversocks >/dev/null || groupadd --system cleversocks
getent passwd cleversocks >/dev/null || useradd --system --gid cleversocks \
	--home-dir /var/lib/cleversocks --no-create-home --shell /usr/sbin/nologin \
	--comment "CleverSocks" cleversocks
# `cleversocks check` looks for it before systemd's StateDirectory= has made it.
[ -e /var/lib/cleversocks ] || install -d -o cleversocks -g cleversocks -m 0700 /var/lib/cleversocks
exit 0
