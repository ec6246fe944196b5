#!/bin/sh
# Makes what a release has, into a folder:  release.sh OUT [ARCH...]
# The same commit gives the same bytes, wherever it is built.
#
#   VERSION   without it, `git describe`
#   CLEVERSOCKS_SIGNING_KEY   an OpenSSH private key: signs SHA256SUMS with it
#   CLEVERSOCKS_RPM_KEY       an OpenPGP private key, armored, without a passphrase:
#                             signs the rpms with it, which then differ by the time
#
# For each architecture (amd64 arm64 riscv64 armv7): the static program, a deb
# and an rpm; for all of them a CycloneDX SBOM, an in-toto provenance statement
# and SHA256SUMS.
set -eu
out=$1
shift
[ $# -gt 0 ] || set -- amd64 arm64 riscv64 armv7
cd "$(dirname "$0")/.."
mkdir -p "$out"
out=$(cd "$out" && pwd)

NFPM="go run github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0"
SBOM="go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0"

commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
MTIME=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
VERSION=${VERSION:-$(git describe --tags --always 2>/dev/null | sed 's/^v//')}
# A package's version begins with a digit.
case $VERSION in [0-9]*.*) ;; *) VERSION=0.0.0+g$VERSION ;; esac
export SOURCE_DATE_EPOCH MTIME VERSION
export LC_ALL=C TZ=UTC CGO_ENABLED=0
umask 022

STAGE=$(mktemp -d)
export STAGE
trap 'rm -rf "$STAGE"' EXIT INT TERM

RPM_KEY=""
if [ -n "${CLEVERSOCKS_RPM_KEY:-}" ]; then
	RPM_KEY=$STAGE/rpm.key
	(umask 077 && printf '%s\n' "$CLEVERSOCKS_RPM_KEY" >"$RPM_KEY")
fi
export RPM_KEY

compile() { # OUTPUT: for GOARCH
	go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$VERSION -X main.commit=$commit" -o "$1" ./cmd/cleversocks
}

# What is the same for all: man pages, completions, the parts list.
compile "$STAGE/host"
gzip -9nc docs/cleversocks.1 >"$STAGE/cleversocks.1.gz"
gzip -9nc docs/cleversocks.toml.5 >"$STAGE/cleversocks.toml.5.gz"
for shell in bash zsh fish; do
	"$STAGE/host" completion "$shell" >"$STAGE/completion.$shell"
done
$SBOM bin -json -noserial -std -version "v$VERSION" -output "$STAGE/sbom.raw.json" "$STAGE/host" 2>"$STAGE/sbom.log" || {
	cat "$STAGE/sbom.log" >&2
	exit 1
}
go run ./scripts/provenance sbom "$STAGE/sbom.raw.json" "$MTIME" >"$STAGE/sbom.cdx.json"
cp "$STAGE/sbom.cdx.json" "$out/cleversocks-$VERSION.sbom.cdx.json"

for arch; do
	GOARCH=$arch GOARM=""
	[ "$arch" = armv7 ] && GOARCH=arm GOARM=7
	export GOARCH GOARM
	if [ "$arch" = "$(go env GOHOSTARCH)" ]; then
		cp "$STAGE/host" "$STAGE/cleversocks"
	else
		compile "$STAGE/cleversocks"
	fi
	case $arch in armv7) ARCH=arm7 ;; *) ARCH=$arch ;; esac
	export ARCH
	cp "$STAGE/cleversocks" "$out/cleversocks-$VERSION-linux-$arch"
	for packager in deb rpm; do
		(
			unset GOARCH GOARM
			$NFPM package --config dist/packages/nfpm.yaml --packager "$packager" --target "$out" >"$STAGE/nfpm.log" 2>&1 || { cat "$STAGE/nfpm.log" >&2; exit 1; }
		)
	done
done
unset GOARCH GOARM

(cd "$out" && find . -maxdepth 1 -type f ! -name 'SHA256SUMS*' ! -name '*.intoto.json' | sed 's|^\./||' | sort | xargs sha256sum >SHA256SUMS)
go run ./scripts/provenance statement "$out/SHA256SUMS" "$VERSION" "$commit" "$(go env GOVERSION)" >"$out/cleversocks-$VERSION.intoto.json"
(cd "$out" && sha256sum "cleversocks-$VERSION.intoto.json" >>SHA256SUMS)

if [ -n "${CLEVERSOCKS_SIGNING_KEY:-}" ]; then
	(umask 077 && printf '%s\n' "$CLEVERSOCKS_SIGNING_KEY" >"$STAGE/key")
	ssh-keygen -q -Y sign -n cleversocks-release -f "$STAGE/key" "$out/SHA256SUMS"
fi
ls -l "$out"
