#!/bin/sh
# Fails on functions that no command reaches (the arguments are the tool's
# command line), but for those that scripts/deadcode.txt names with a reason; and
# on a line there without a reason, or about a function that is gone or reached.
set -eu
mkdir -p .task
"$@" ./cmd/... | sed 's/^\([^:]*\):[0-9]*:[0-9]*: unreachable func: /\1 /' | sort >.task/deadcode.found
sed -n 's/^\([^# ][^ ]*\)  *\([^ ]*\)  *[^ ].*/\1 \2/p' scripts/deadcode.txt | sort >.task/deadcode.allowed
if comm -23 .task/deadcode.found .task/deadcode.allowed | grep .; then
	echo "nothing reaches these: take them out, or say why not in scripts/deadcode.txt" >&2
	exit 1
fi
if comm -13 .task/deadcode.found .task/deadcode.allowed | grep .; then
	echo "these are reached, or are no more: take them out of scripts/deadcode.txt" >&2
	exit 1
fi
if grep -v '^#' scripts/deadcode.txt | grep -vE '^[^ ]+ [^ ]+  [^ ]+ [^ ]+'; then
	echo "these have no reason in scripts/deadcode.txt" >&2
	exit 1
fi
