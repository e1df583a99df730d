#!/usr/bin/env bash
# Runs on a machine with a GPU, in the folder of pack.sh's files: loads the model; runs 1, 8 and 32 mixed chats, cancels, a
# reload, and the determinism of 20 prompts and 20 cuts. Writes figures to the given folder, and ends within 10 minutes.
set -u -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/results}
mkdir -p "$out"
export CAUDAL_MODEL_DIR=$here/models CAUDAL_DATA_DIR=$here/data
export CAUDAL__AUTH__ADMIN_KEY=gpu-check-only
failed=()
server=
trap 'test -z "$server" || kill "$server" 2>/dev/null' EXIT

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv 2>&1 | tee "$out/gpu.txt"

# Runs a step and goes on with the next one if it fails.
step() {
  echo "== $1"
  timeout "$2" "${@:3}" 2>&1 | tee "$out/$1.txt" || failed+=("$1")
}

"$here/caudal" serve --set store.kind=memory --set server.bind=127.0.0.1:0 >"$out/server.txt" 2>&1 &
server=$!
for _ in $(seq 600); do
  grep -q "^listening on" "$out/server.txt" && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
url=$(sed -n 's/^listening on //p' "$out/server.txt")
cat "$out/server.txt"
if [ -n "$url" ]; then
  step chats 180 "$here/peer" --ours "$url" --rows one,prompts,chats8,chats32,pause --rounds 1 --ban 0,2 --json "$out/chats.json"
  model=$(curl -s "$url/v1/models" | sed -n 's/.*"data":\[{[^}]*"id":"\([^"]*\)".*/\1/p')
  step reload 60 curl -sf -X POST -H "authorization: Bearer gpu-check-only" "$url/admin/models/$model/reload"
  step after-reload 60 "$here/peer" --ours "$url" --rows one --rounds 1 --ban 0,2
else
  failed+=(load)
fi
kill "$server" 2>/dev/null
wait "$server" 2>/dev/null
server=
step determinism 150 "$here/bench-determinism" --prompts 20 --cuts 20 --json "$out/determinism.json"
step cancels 90 "$here/bench-engine" --rows cancels --cancels 100 --json "$out/cancels.json"

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "all passed; figures: $out"
