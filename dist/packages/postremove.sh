#!/bin/sh
# A purge takes what the daemon remembered and the settings along.
set -e
if [ "$1" = purge ]; then
	rm -rf /var/lib/cleversocks /var/lib/private/cleversocks /etc/cleversocks
	if getent passwd cleversocks >/dev/null; then userdel cleversocks || true; fi
	if getent group cleversocks >/dev/null; then groupdel cleversocks || true; fi
fi
[ -d /run/systemd/system ] && systemctl daemon-reload || true
exit 0
