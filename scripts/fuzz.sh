#!/bin/sh
# Runs every fuzz target for a number of inputs: fuzz.sh 20000x
set -eu
mkdir -p .task
targets=0
for package in $(go list ./... | grep -vxE 'cleversocks/e2e(/dist)?'); do
	dir=${package#cleversocks}
	for target in $(cat ".$dir"/*_test.go 2>/dev/null | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' | sort -u); do
		echo "fuzz $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$package" >.task/fuzz.log 2>&1 || {
			cat .task/fuzz.log
			exit 1
		}
		targets=$((targets + 1))
	done
done
[ "$targets" -gt 0 ]
echo "$targets" >.task/fuzz.passed
