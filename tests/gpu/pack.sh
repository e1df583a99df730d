#!/usr/bin/env bash
# Builds the server for CUDA and packs the files for a machine with a GPU into parts of at most 60 MB: the server, the
# benchmarks, the model, and check.sh, which runs there. `FEATURES=` (empty) packs a build for CPUs, to try check.sh.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
features=${FEATURES-cuda}
out=$CARGO_TARGET_DIR/gpu-check
if [ "$features" = cuda ] && ! command -v nvcc >/dev/null; then
  echo "gpu-check: nvcc is not on the PATH. Install the CUDA toolkit, or set FEATURES= to rehearse on the CPU." >&2
  exit 1
fi
[ -z "$features" ] || features="--features caudal-server/$features"
# shellcheck disable=SC2086
cargo build --release --locked -p caudal-server -p caudal-bench $features --bin caudal --bin bench-determinism --bin bench-engine
cargo build --release --locked -p caudal-tests --bin peer

release=$CARGO_TARGET_DIR/release
rm -rf "$out" && mkdir -p "$out/caudal-gpu/models"
cp "$release/caudal" "$release/bench-determinism" "$release/bench-engine" "$release/peer" tests/gpu/check.sh "$out/caudal-gpu"
strip "$out"/caudal-gpu/{caudal,bench-determinism,bench-engine,peer}
cp -L "$("$release/caudal" model pull 2>&1 | sed -n 's/^model: //p')" "$out/caudal-gpu/models"
tar -C "$out" -cz caudal-gpu | split -b 60000000 -d - "$out/caudal-gpu.tar.gz."
rm -r "$out/caudal-gpu"
echo "Packed. On the machine with the GPU: cat caudal-gpu.tar.gz.* | tar xz && caudal-gpu/check.sh [results folder]"
ls -lh "$out"
