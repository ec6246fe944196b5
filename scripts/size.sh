#!/bin/sh
# How large the stripped program is, and which dependency has how much of it:
# the sizes of its symbols by module. What no symbol has (tables of the runtime
# for stack traces, mostly) is shared out by nobody, and has a line of its own.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0
go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o "$work/stripped" ./cmd/cleversocks
go build -trimpath -buildvcs=false -ldflags "-buildid=" -o "$work/symbols" ./cmd/cleversocks
go list -deps -f '{{if .Module}}{{.ImportPath}} {{.Module.Path}}{{else}}{{.ImportPath}} std{{end}}' ./cmd/cleversocks > "$work/packages"
total=$(wc -c < "$work/stripped")
go tool nm -size "$work/symbols" | awk -v total="$total" -v packages="$work/packages" '
	BEGIN { while ((getline line < packages) > 0) { split(line, f, " "); module[f[1]] = f[2] } }
	$3 ~ /^[TtRrDd]$/ && $4 !~ /^(runtime\.(text|etext|rodata|erodata|types|etypes|itablink|eitablink|pclntab|epclntab|findfunctab|noptrdata|enoptrdata|data|edata|gcdata|typelink)|go:(string|func)\.\*|type:\*)$/ {
		name = $4
		sub(/^type:\.?(eq|hash)\./, "", name); sub(/^go:itab\./, "", name); gsub(/%2e/, ".", name); sub(/^[*]+/, "", name)
		slash = 0
		for (i = 1; i <= length(name); i++) { c = substr(name, i, 1); if (c == "(" || c == "[" || c == ",") break; if (c == "/") slash = i }
		rest = substr(name, slash + 1); dot = index(rest, ".")
		package = dot ? substr(name, 1, slash + dot - 1) : name
		owner = package in module ? module[package] : "tables of the runtime"
		size[owner] += $2; known += $2
	}
	END {
		for (m in size) printf "%9d %s\n", size[m], m
		if (total > known) printf "%9d %s\n", total - known, "without a symbol"
	}' | sort -rn | awk -v total="$total" '
	{ size = $1; $1 = ""; printf "%6.2f MB %5.1f %% %s\n", size / 1e6, 100 * size / total, $0 }
	END { printf "%6.2f MB        stripped, in all (at most 20)\n", total / 1e6 }'
[ "$total" -le 20000000 ] || { echo "more than 20 MB"; exit 1; }
