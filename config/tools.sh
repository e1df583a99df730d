#!/usr/bin/env bash
# Reports everything that a build lacks, each with what to do.
set -u
missing=0
need() { echo "caudal: $1" >&2; missing=1; }

if command -v cargo >/dev/null; then
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
  found=$(rustc --version | awk '{print $2}')
  [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -1)" = "$wanted" ] || need "Rust $found is too old; $wanted or newer is needed: rustup update stable"
else
  need "Rust is missing. Install it from https://rustup.rs, then open a new shell."
fi
if command -v node >/dev/null; then
  [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] || need "Node $(node --version) is too old; 20 or newer is needed: https://nodejs.org"
else
  need "Node is missing; install version 20 or newer: https://nodejs.org"
fi
command -v npm >/dev/null || need "npm is missing; it comes with Node: https://nodejs.org"
if command -v python3 >/dev/null; then
  python3 -m pip --version >/dev/null 2>&1 || need "pip is missing; install it, on Debian: apt-get install python3-pip"
else
  need "Python 3 is missing; it fetches the default model. On Debian: apt-get install python3 python3-pip"
fi
command -v patch >/dev/null || need "patch is missing. On Debian: apt-get install patch"
command -v cc >/dev/null || need "A C compiler is missing. On Debian: apt-get install build-essential"

mkdir -p "$CARGO_TARGET_DIR" || need "$CARGO_TARGET_DIR cannot be made; set CARGO_TARGET_DIR to a folder you may write to."
free_mb=$(df -Pm "$CARGO_TARGET_DIR" 2>/dev/null | awk 'NR==2{print $4}')
wanted_mb=6000
[ -x "$CARGO_TARGET_DIR/release/caudal" ] && wanted_mb=1000
[ "${free_mb:-0}" -ge "$wanted_mb" ] || need "$CARGO_TARGET_DIR has ${free_mb:-0} MB free and the build needs $wanted_mb; make room, or set CARGO_TARGET_DIR to another disk."
exit "$missing"
