#!/bin/sh
# Runs "go test" and keeps the counts of the run for the summary:
#   gotest.sh NAME ARGUMENTS...
# A test that skips itself fails the run: what CI does not run is not tested.
set -eu
name=$1
shift
mkdir -p .task
log=.task/$name.log
status=0
go test -count=1 -v "$@" >"$log" 2>&1 || status=$?
grep -E '^(ok|FAIL|---|panic:)|no test files' "$log" | grep -vE '^--- PASS|no test files' || true
if [ "$status" -ne 0 ]; then
	echo "== the failing output =="
	grep -vE '^ *(=== |--- PASS)' "$log" | tail -n 300
	exit "$status"
fi
if grep -E '^ *--- SKIP' "$log"; then
	echo "these tests skipped themselves" >&2
	exit 1
fi
passed=$(grep -cE '^ *--- PASS' "$log")
echo "$passed" >".task/$name.passed"
echo "$name: $passed passed"
