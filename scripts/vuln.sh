#!/bin/sh
# Runs govulncheck (the arguments are its command), unless its database cannot
# be reached from here: then it says so and passes.
set -eu
mkdir -p .task
if "$@" ./... >.task/vuln.log 2>&1; then
	echo "govulncheck: nothing found"
	exit 0
fi
if grep -qE 'fetching vulnerabilities|vuln\.go\.dev|no such host|connection refused|i/o timeout|Forbidden' .task/vuln.log; then
	echo "govulncheck: its database cannot be reached from here, not checked"
	exit 0
fi
cat .task/vuln.log
exit 1
