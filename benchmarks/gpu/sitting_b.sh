#!/bin/bash
# The table of a regeneration that was packed (benchmarks/gpu/pack.sh): what is missing of it, several runs at once on the
# card, the most wanted subsets first. Goes on where the last sitting ended, on this machine or after a further packing.
# Environment: see environment.sh; RUNS_PER_GPU, WORKERS; RETURN_MIB: how much comes back.
. "$(dirname "$0")/environment.sh"
export RUNS_PER_GPU=${RUNS_PER_GPU:-6} WORKERS=${WORKERS:-$(nproc)} RETURN_MIB=${RETURN_MIB:-55}
results() {
    "$PYTHON" -m benchmarks.gpu.table results && bring results "$STORE" -T "$STORE/results.txt"
    (cd "$STORE" && tail -q -n 30 logs/*.log) > "$LOGS/last_lines.txt" 2>/dev/null
}
TAIL=40 step "$(($(left) - ${SECONDS_TO_FINISH:-40}))" table "$PYTHON" -m benchmarks.gpu.table run
