#!/bin/bash
# The first minutes on a GPU: what runs, how fast, and the built-in generator trained on for the rest of the time.
# Environment: see environment.sh; PEOPLE (rendered people; 0: no training), IMAGES (of each), BATCHES, BENCHMARKS.
. "$(dirname "$0")/environment.sh"
PEOPLE=${PEOPLE:-2000} BATCHES=${BATCHES:-"64 256 1024"} WORKERS=${WORKERS:-$(nproc)}
run() ( set -o pipefail; "$PYTHON" -m "$@" --store "$STORE" 2>>"$LOGS/stages.txt" | tail -1 )
no_data() { echo "no data to train on: $(tail -n 1 "$LOGS/stages.txt" | cut -c 1-300)"; exit 1; }

step 30 device "$PYTHON" -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
# pytest ends by itself before it is cut off: what failed, and why, is written at the end
TAIL=12 step 120 tests "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider --tb=short --timeout 45 --session-timeout 65 tests/test_gpu.py
TAIL=12 step 75 sharing "$PYTHON" -m benchmarks.gpu.sharing
for name in ${BENCHMARKS-sampling}; do step 60 "$name" "$PYTHON" -m benchmarks $name; done
if [ "$PEOPLE" -eq 0 ]; then exit; fi

people=$(run datasets miniature --train-identities "$PEOPLE" --images-per-identity "${IMAGES:-10}" --test-identities 0 --distractors 0 --junk 0 --seed 1001 --workers "$WORKERS") || no_data
index=$(run datasets index --root "$people" --workers "$WORKERS") || no_data
poses=$(run datasets import-poses --images "$index" --csv "$people/market-annotation-train.csv") || no_data
shards=$(run datasets write-shards --images "$index" --poses "$poses") || no_data
encoded=$(run datasets encode --shards "$shards" --vae imagpose/builtin/vae --image-encoder imagpose/builtin/image_encoder --device "$DEVICE") || no_data
echo "data ready after $(($(date +%s) - STARTED)) s: $encoded"

train=("$PYTHON" -m imagpose train --encoded "$encoded" --init-from imagpose/builtin --optimizer muon --learning-rate 1e-3
    --ema-decay 0.999 --precision "${PRECISION:-bf16}" --device "$DEVICE" --workers "$((WORKERS < 12 ? WORKERS : 12))" --seed 5)
for batch in $BATCHES; do  # stopped by the clock, most of them: their logs are enough
    step 30 "batch-$batch" "${train[@]}" --batch-size "$batch" --steps "${TRIED_STEPS:-400}" --warmup-steps 10 --output "$STORE/batch-$batch"
done
# As many steps as fit, so that the learning rate falls to its end and a generator is saved; the smallest batch that comes
# within a tenth of the fastest one's canvases a second.
choice=$("$PYTHON" -m benchmarks.gpu.choose_batch "$STORE" "$(($(left) - 45))") || { echo "no batch size could be tried"; exit; }
read -r batch steps <<< "$choice"
echo "training on: $steps steps of $batch canvases"
step "$(($(left) - 15))" train "${train[@]}" --batch-size "$batch" --steps "$steps" --warmup-steps "$((steps / 20))" \
    --checkpoint-every 1000 --output "$STORE/generator"
results() {
    # the frozen parts are the built-in ones, which stayed at home
    [ ! -f "$STORE/generator/manifest.json" ] || bring generator "$STORE/generator" --exclude '*.png' --exclude vae --exclude image_encoder .
}
