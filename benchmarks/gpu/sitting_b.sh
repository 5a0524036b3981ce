#!/bin/bash
# The whole table of market-lite-256: every fraction and arm, several runs at once on the card. Resumable.
# Environment: see environment.sh; RUNS_PER_GPU, and MORE: further flags of the regeneration.
. "$(dirname "$0")/environment.sh"
. "$(dirname "$0")/unpack.sh"
keypoints=$(ls "$DATA"/keypoints/*annotation*.csv | paste -s -d ,)
step "$(($(left) - 15))" regenerate "$PYTHON" -m flows direct --preset "${PRESET:-market-lite-256}" --root "$DATA/market.zip" --poses "$keypoints" \
    --pretrain.people.root "$DATA/others/images.csv" --device "$DEVICE" --runs-per-gpu "${RUNS_PER_GPU:-6}" --workers "$(nproc)" \
    --store "$STORE" --output "$OUT/report" ${MORE:-}
(cd "$STORE" && tar -c -f "$OLDPWD/$OUT/runs.tar" train-reid/*/metrics.json train-reid/*/manifest.json train-reid/*/per_query.parquet \
    benchmark/*/results.* 2>/dev/null)
echo "done after $(($(date +%s) - STARTED)) s"
