#!/bin/bash
# The first minutes on a GPU: what runs, how fast, and the built-in generator trained on for the rest of the time.
# Environment: see environment.sh; PEOPLE (rendered people), STEPS, BATCHES (sizes whose speed is tried), BENCHMARKS, IMAGES (of each).
. "$(dirname "$0")/environment.sh"
PEOPLE=${PEOPLE:-2000} STEPS=${STEPS:-20000} BATCHES=${BATCHES:-"64 256 1024"}
run() { "$PYTHON" -m "$@" --store "$STORE" 2>>"$OUT/stages.txt" | tail -1; }

step 20 device "$PYTHON" -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
step 100 tests "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider tests
for name in ${BENCHMARKS:-training_step sampling openpose preset_costs reid_training}; do step 40 "$name" "$PYTHON" -m benchmarks $name; done

people=$(run datasets miniature --train-identities "$PEOPLE" --images-per-identity "${IMAGES:-10}" --test-identities 0 --distractors 0 --junk 0 --seed 1001 --workers "$(nproc)")
index=$(run datasets index --root "$people" --workers "$(nproc)")
poses=$(run datasets import-poses --images "$index" --csv "$people/market-annotation-train.csv")
shards=$(run datasets write-shards --images "$index" --poses "$poses")
encoded=$(run datasets encode --shards "$shards" --vae imagpose/builtin/vae --image-encoder imagpose/builtin/image_encoder --device "$DEVICE")
echo "data ready after $(($(date +%s) - STARTED)) s: $encoded"

train=("$PYTHON" -m imagpose train --encoded "$encoded" --init-from imagpose/builtin --optimizer muon --learning-rate 1e-3
    --ema-decay 0.999 --precision bf16 --device "$DEVICE" --seed 5)
for batch in $BATCHES; do
    step 20 "batch-$batch" "${train[@]}" --batch-size "$batch" --steps 40 --warmup-steps 10 --output "$STORE/batch-$batch"
done
rest=$(($(left) - 25))
step "$rest" train "${train[@]}" --batch-size "${BATCHES##* }" --steps "$STEPS" --warmup-steps 100 --checkpoint-every 200 --store "$STORE"
newest=$(ls -td "$STORE"/train-imagpose/* 2>/dev/null | head -1)
[ -z "$newest" ] || tar -c -C "$newest" --exclude '*.png' -f "$OUT/generator.tar" .
echo "done after $(($(date +%s) - STARTED)) s"
