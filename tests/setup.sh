#!/usr/bin/env bash
# Installs what the tests need beside the build's own tools. As root it does so without asking, else it says what to do.
set -eu
packages=()
command -v "${CHROMIUM:-chromium}" >/dev/null || packages+=(chromium)
command -v redis-server >/dev/null || packages+=(redis-server)
command -v openssl >/dev/null || packages+=(openssl)
PATH=$PATH:/usr/sbin command -v nginx >/dev/null || packages+=(nginx-light)
[ ${#packages[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "caudal: the tests need these Debian packages: ${packages[*]}. Install them, as: sudo apt-get install ${packages[*]}" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" fonts-dejavu-core >/dev/null
