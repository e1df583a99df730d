#!/usr/bin/env bash
# Runs the suites of unmodified clients, each against its own servers: tests/clients/run.sh [python] [js].
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/caudal
export CAUDAL_BIN=${CAUDAL_BIN:-${CARGO_TARGET_DIR:-$cache/target}/release/caudal}
if [ ! -x "$CAUDAL_BIN" ]; then
  echo "caudal: there is no server at $CAUDAL_BIN: run \`make build\`, or set CAUDAL_BIN" >&2
  exit 1
fi
suites=("${@:-}")
[ -n "${suites[0]}" ] || suites=(python js)

# Makes a virtual environment for each lock file, and again when the file changes.
environment() {
  local lock=$1 name
  name=$cache/clients/$(sha256sum "$lock" | cut -c1-16)
  if [ ! -f "$name/ready" ]; then
    rm -rf "$name"
    python3 -m venv "$name"
    "$name/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$lock"
    touch "$name/ready"
  fi
  echo "$name"
}

python() {
  local environment
  environment=$(environment "$here/python/requirements.lock")
  (cd "$here/python" && "$environment/bin/python" -W ignore -m unittest test_openai test_frameworks)
  environment=$(environment "$here/python/instructor.lock")
  (cd "$here/python" && "$environment/bin/python" -W ignore -m unittest test_instructor)
  environment=$(environment "$here/python/llm.lock")
  (cd "$here/python" && "$environment/bin/python" -W ignore -m unittest test_llm)
  environment=$(environment "$here/python/schemathesis.lock")
  (cd "$here/python" && "$environment/bin/python" -W ignore -m unittest test_contract)
}

js() {
  local modules=$here/js/node_modules
  if [ ! -f "$modules/.ready" ] || [ "$here/js/package-lock.json" -nt "$modules/.ready" ]; then
    (cd "$here/js" && npm ci --silent --no-audit --no-fund)
    touch "$modules/.ready"
  fi
  # Uses its own Node.js, because openai needs 22.
  (cd "$here/js" && "$modules/.bin/node" --test --test-reporter spec ./*.test.mjs)
}

for suite in "${suites[@]}"; do
  "$suite"
done
