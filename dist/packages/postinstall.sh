#!/bin/sh
# Nothing is started by an installation: look at the configuration first. An
# upgrade hands the sockets of a daemon that runs to the new program; no
# connection is dropped or refused.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
case "$1" in
configure) old=$2 ;; # deb: the version before, or nothing
*) [ "$1" -gt 1 ] 2>/dev/null && old=yes || old= ;; # rpm: how many are installed
esac
if [ -n "$old" ] && systemctl is-active --quiet cleversocks.service; then
	systemctl kill --kill-who=main --signal=USR2 cleversocks.service
fi
exit 0
