#!/bin/sh
# How large the stripped program is, and which dependency has how much of it: the
# sizes of its symbols by module, and with them the part of what has no symbol
# (types, strings, and the tables for stack traces), shared out in proportion. As a
# table in Markdown, for docs/performance.md.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0
go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o "$work/stripped" ./cmd/cleversocks
go build -trimpath -buildvcs=false -ldflags "-buildid=" -o "$work/symbols" ./cmd/cleversocks
go list -deps -f '{{if .Module}}{{.ImportPath}} {{.Module.Path}}{{else}}{{.ImportPath}} the standard library{{end}}' ./cmd/cleversocks >"$work/packages"
total=$(wc -c <"$work/stripped")
# By address: behind runtime.edata is what has no bytes in the file.
go tool nm -n -size "$work/symbols" | awk -v packages="$work/packages" '
	BEGIN { while ((getline line < packages) > 0) { at = index(line, " "); module[substr(line, 1, at - 1)] = substr(line, at + 1) } }
	$4 == "runtime.edata" { exit }
	$3 ~ /^[TtRrDd]$/ && $4 !~ /^(runtime\.(text|etext|rodata|erodata|types|etypes|itablink|eitablink|pclntab|epclntab|findfunctab|noptrdata|enoptrdata|data|edata|gcdata|typelink)|go:(string|func)\.\*|type:\*)$/ {
		name = $4
		sub(/^type:\.?(eq|hash)\./, "", name); sub(/^go:itab\./, "", name); gsub(/%2e/, ".", name); sub(/^[*]+/, "", name)
		slash = 0
		for (i = 1; i <= length(name); i++) { c = substr(name, i, 1); if (c == "(" || c == "[" || c == ",") break; if (c == "/") slash = i }
		rest = substr(name, slash + 1); dot = index(rest, ".")
		package = dot ? substr(name, 1, slash + dot - 1) : name
		if (package in module) { size[module[package]] += $2; known += $2 }
	}
	END { for (m in size) printf "%d %d %s\n", size[m], known, m }' | sort -rn | awk -v total="$total" '
	BEGIN { print "| | symbols, MB | with its part of the tables, MB | share |\n|---|---:|---:|---:|" }
	{
		size = $1; all = $2; $1 = $2 = ""; sub(/^ */, "")
		if (size < 20000) { few++; rest += size; next }
		printf "| %s | %.2f | %.2f | %.1f %% |\n", $0, size / 1e6, size / all * total / 1e6, 100 * size / all
	}
	END {
		printf "| %d more | %.2f | %.2f | %.1f %% |\n", few, rest / 1e6, rest / all * total / 1e6, 100 * rest / all
		printf "| stripped, in all (at most 20) | | %.2f | |\n", total / 1e6
	}'
[ "$total" -le 20000000 ] || { echo "more than 20 MB"; exit 1; }
