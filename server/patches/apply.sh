#!/usr/bin/env bash
# Makes the patched crates in server/patches/crates: takes each as cargo fetched it and applies its diff. Does nothing if they
# are there already.
set -eu
cd "$(dirname "$0")"
fail() { echo "caudal: server/patches/apply.sh: $1" >&2; exit 1; }

wanted=$(cat ./*.diff apply.sh fetch/Cargo.toml | sha256sum | cut -d' ' -f1)
[ "$(cat crates/made 2>/dev/null)" = "$wanted" ] && exit 0
command -v cargo >/dev/null || fail "cargo is missing; install Rust from https://rustup.rs"
command -v patch >/dev/null || fail "the program patch is missing; on Debian: apt-get install patch"

new=crates.new
rm -rf "$new"
mkdir "$new"
trap 'rm -rf "$new"' EXIT
# With the workspace's versions, so that nothing is fetched that the build does not need.
mkdir "$new/fetch"
cp fetch/Cargo.toml fetch/lib.rs ../../Cargo.lock "$new/fetch/"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo fetch --quiet --manifest-path "$new/fetch/Cargo.toml" --target "$host" || fail "cargo cannot fetch the crates; is there a network?"
metadata=$(cargo metadata --quiet --format-version 1 --offline --filter-platform "$host" --manifest-path "$new/fetch/Cargo.toml")

for diff in *.diff; do
  name=${diff%.diff}
  version=${name##*-}
  name=${name%-*}
  locked=$(grep -A1 "^name = \"$name\"$" ../../Cargo.lock | sed -n 's/^version = "\(.*\)"$/\1/p')
  [ "$locked" = "$version" ] || fail "$diff is for $name $version, and Cargo.lock has $locked: port the diff (see README.md)"
  source=$(grep -o "\"[^\"]*/$name-$version/Cargo.toml\"" <<<"$metadata" | head -n 1 | tr -d '"')
  [ -n "$source" ] || fail "cargo fetched no $name $version"
  cp -r "$(dirname "$source")" "$new/$name"
  chmod -R u+w "$new/$name"
  rm -f "$new/$name/Cargo.toml.orig" "$new/$name/.cargo-ok" "$new/$name/.cargo_vcs_info.json"
  patch --quiet --strip=1 --fuzz=0 --no-backup-if-mismatch --directory="$new/$name" <"$diff" ||
    fail "$diff does not apply to $name $version"
done
rm -rf "$new/fetch"
echo "$wanted" >"$new/made"
rm -rf crates
mv "$new" crates
