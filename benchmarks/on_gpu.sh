#!/usr/bin/env bash
# All the evidence that a GPU can give, in eight minutes: benchmarks/on_gpu.sh OUT [--dry]
# Runs from the checkout: nothing is installed and no network is used. --dry runs every step small, on a CPU.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
ln -s "$root/kernels" "$links/featup_kernels"
cd "$root"
PYTHONPATH="$links:$root" "${PYTHON:-python3}" -m benchmarks.gpu.run "$@"
