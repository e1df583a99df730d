#!/usr/bin/env bash
# Runs every benchmark, one after the other. Each prints a table and writes JSON to the folder that is printed at the end.
set -eu
cd "$(dirname "$0")/.."
out=${BENCH_DIR:-$CARGO_TARGET_DIR/bench}
mkdir -p "$out"

echo "== the engine and the server on it (SmolLM2-135M): speed, turns, shared instructions, another answer, long prompts, a schema, cancels, shared keys and values"
cargo build --release --locked --quiet -p caudal-bench --bin bench-engine
"$CARGO_TARGET_DIR/release/bench-engine" --rows speed,turns,shared,again,prefill,bound,cancels,kv --json "$out/engine.json"

echo
echo "== memory, in a process of its own; takes many minutes (BENCH_MEMORY='--chats 200 --conversations 20' for less)"
# shellcheck disable=SC2086
"$CARGO_TARGET_DIR/release/bench-engine" --rows memory ${BENCH_MEMORY:-} --json "$out/memory.json"

echo
echo "== determinism: the same seed alone and among 31 others, and continued after a cut"
cargo build --release --locked --quiet -p caudal-bench --bin bench-determinism
"$CARGO_TARGET_DIR/release/bench-determinism" --json "$out/determinism.json"

echo
echo "== the stores: latency between replicas, replay, prompt-cache hits, streams on each, a million conversations (2 GB each)"
cargo build --release --locked --quiet -p caudal-bench --bin bench-store
"$CARGO_TARGET_DIR/release/bench-store" --json "$out/store.json"

echo
echo "== 200 streams of 500 tokens at 20 tokens a second (scripted engine; gap: 50 ms; target: p99 ≤ 100 ms)"
cargo build --release --locked --quiet -p caudal-tests --bin load
log=$(mktemp)
server=
CAUDAL_DATA_DIR=$(mktemp -d)
export CAUDAL_DATA_DIR
trap 'test -z "$server" || kill "$server" 2>/dev/null; rm -rf "$log" "$CAUDAL_DATA_DIR"' EXIT

# Starts `caudal serve` with these arguments on a free port; sets $server to its process id and $url to its address.
serve() {
  "$CARGO_TARGET_DIR/release/caudal" serve --set server.bind=127.0.0.1:0 "$@" >"$log" 2>/dev/null &
  server=$!
  until grep -q listening "$log"; do
    kill -0 "$server" || { echo "the server did not start" >&2; exit 1; }
    sleep 0.1
  done
  url=$(sed -n 's/^listening on //p' "$log")
}

serve --set engine.kind=scripted --set engine.scripted.tokens=500 --set engine.scripted.tokens_per_second=20
"$CARGO_TARGET_DIR/release/load" --url "$url" --streams 200 --tokens 500 --ramp-ms 1000 --json "$out/load.json"
kill "$server" && wait "$server" || true
server=

echo
echo "== the SDK: its size, and frames while 100 tokens a second stream into a page with 10,000 (target: 60 fps, no task above 50 ms)"
(cd client-ts && CAUDAL_BIN="$CARGO_TARGET_DIR/release/caudal" BENCH_JSON="$out/client.json" npm run --silent bench)

echo
echo "== 10,000 authenticated WebSockets that are idle"
cargo build --release --locked --quiet -p caudal-tests --bin idle
CAUDAL_BIN="$CARGO_TARGET_DIR/release/caudal" "$CARGO_TARGET_DIR/release/idle" --json "$out/idle.json"

if [ -n "${BENCH_PEER:-}" ]; then
  echo
  echo "== beside other servers: $BENCH_PEER (docs/performance.md describes how to start them)"
  cargo build --release --locked --quiet -p caudal-tests --bin peer
  # shellcheck disable=SC2086
  serve ${BENCH_PEER_SERVE:-}
  peers=()
  for peer in $BENCH_PEER; do peers+=(--peer "$peer"); done
  for pid in ${BENCH_PEER_PID:-}; do peers+=(--peer-pid "$pid"); done
  # shellcheck disable=SC2086
  "$CARGO_TARGET_DIR/release/peer" --ours "$url" --ours-pid "$server" "${peers[@]}" ${BENCH_PEER_ARGS:-} --json "$out/peer.json"
fi
echo
echo "JSON: $out/engine.json $out/memory.json $out/determinism.json $out/store.json $out/load.json $out/idle.json${BENCH_PEER:+ $out/peer.json}"
