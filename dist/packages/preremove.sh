#!/bin/sh
# Stops the service when the package goes, not when another version comes.
set -e
[ -d /run/systemd/system ] || exit 0
case "$1" in
remove | 0) systemctl --no-reload disable --now cleversocks.service cleversocks.socket || true ;;
esac
exit 0
