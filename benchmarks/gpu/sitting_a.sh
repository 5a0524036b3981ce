#!/bin/bash
# The first minutes on a GPU: what runs, and how fast; in a sitting of its own the built-in generator trained on.
# Environment: see environment.sh; PARTS: tests, sharing, names of benchmarks, training; docs/gpu.md has the others.
. "$(dirname "$0")/environment.sh"
PARTS=${PARTS:-"tests sharing training_step sampling openpose preset_costs"} WORKERS=${WORKERS:-$(nproc)}
BATCHES=${BATCHES:-"64 256 1024"} PRECISIONS=${PRECISIONS:-"bf16 fp32"} WAYS=${WAYS:-"plain compiled"}
COMPILE_SECONDS=${COMPILE_SECONDS:-75} VAE_SECONDS=${VAE_SECONDS:-0} VAE_BATCH=${VAE_BATCH:-64}
run() ( set -o pipefail; "$PYTHON" -m "$@" --store "$STORE" 2>>"$LOGS/stages.txt" | tail -1 )
no_data() { echo "no data to train on: $(tail -n 1 "$LOGS/stages.txt" | cut -c 1-300)"; exit 1; }
choose() { "$PYTHON" -m benchmarks.gpu.choose_training "$STORE" "$1" "$2"; }

make_data() {
    local people index poses
    people=$(run datasets miniature --train-identities "${PEOPLE:-2000}" --images-per-identity "${IMAGES:-10}" --test-identities 0 --distractors 0 --junk 0 --seed 1001 --workers "$WORKERS") || no_data
    index=$(run datasets index --root "$people" --workers "$WORKERS") || no_data
    poses=$(run datasets import-poses --images "$index" --csv "$people/market-annotation-train.csv") || no_data
    shards=$(run datasets write-shards --images "$index" --poses "$poses") || no_data
    encoded=$(run datasets encode --shards "$shards" --vae imagpose/builtin/vae --image-encoder imagpose/builtin/image_encoder --device "$DEVICE") || no_data
    echo "data ready after $(($(date +%s) - STARTED)) s: $encoded"
}

# The decoder alone: latents, and with them the encoded pictures and the generator, stay valid.
train_vae() {
    local until=$(($(left) - VAE_SECONDS)) batch precision way steps
    vae=("$PYTHON" -m imagpose train-vae --shards "$shards" --init-from imagpose/builtin/vae --freeze-encoder
        --learning-rate 1e-3 --batch-size "$VAE_BATCH" --precision "${PRECISIONS%% *}" --device "$DEVICE" ${VAE_FLAGS:---chroma-weight 2})
    step 45 try-vae "${vae[@]}" --steps "${VAE_TRIED_STEPS:-2000}" --output "$STORE/vae-$VAE_BATCH-${PRECISIONS%% *}-plain"
    read -r batch precision way steps <<< "$(choose vae $(($(left) - until - 30)))"
    if [ -z "$steps" ]; then echo "no time to train the VAE in"; return; fi
    echo "training the VAE on: $steps steps of $batch pictures"
    step $(($(left) - until)) vae "${vae[@]}" --steps "$steps" --output "$STORE/vae"
}

# try BATCH PRECISION WAY: stopped by the clock, most of them; their logs are enough.
try() {
    local most=30
    if [ "$3" = compiled ]; then most=$COMPILE_SECONDS; fi
    step "$most" "try-$1-$2-$3" "${train[@]}" --batch-size "$1" --precision "$2" "$(flag "$3")" --steps "${TRIED_STEPS:-400}" \
        --warmup-steps 10 --output "$STORE/try-$1-$2-$3"
}
flag() { if [ "$1" = compiled ]; then echo --compile; else echo --no-compile; fi; }
planned() { choose try $(($(left) - 45)) || { echo "nothing that was tried came far enough" >&2; exit 1; }; }

# Batch size, then precision at that batch, then whether compiling pays in what is left. As many steps as fit, so that the
# learning rate falls to its end and a generator is saved.
train_generator() {
    local first_precision=${PRECISIONS%% *} first_way=${WAYS%% *} batch precision way steps choice
    train=("$PYTHON" -m imagpose train --encoded "$encoded" --init-from imagpose/builtin --optimizer muon --learning-rate 1e-3
        --ema-decay 0.999 --device "$DEVICE" --workers "$((WORKERS < 12 ? WORKERS : 12))" --seed 5)
    for batch in $BATCHES; do try "$batch" "$first_precision" "$first_way"; done
    choice=$(planned) || exit
    read -r batch precision way steps <<< "$choice"
    for precision in ${PRECISIONS#"$first_precision"}; do try "$batch" "$precision" "$first_way"; done
    choice=$(planned) || exit
    read -r batch precision way steps <<< "$choice"
    for way in ${WAYS#"$first_way"}; do
        # a trial takes a third of what is left, and starting again as much of the rest: it would have to be twice as fast
        if [ "$(left)" -gt $((3 * COMPILE_SECONDS * ${SLOW:-1})) ]; then try "$batch" "$precision" "$way"; else echo "$way: not tried, $(left) s are left"; fi
    done
    choice=$(planned) || exit
    read -r batch precision way steps <<< "$choice"
    echo "training on: $steps steps of $batch canvases, $precision, $way"
    step "$(($(left) - 15))" train "${train[@]}" --batch-size "$batch" --precision "$precision" "$(flag "$way")" --steps "$steps" \
        --warmup-steps "$((steps / 20))" --checkpoint-every 1000 --output "$STORE/generator"
}

results() {
    # the frozen parts are the built-in ones, which stayed at home
    [ ! -f "$STORE/generator/manifest.json" ] || bring generator "$STORE/generator" --exclude '*.png' --exclude vae --exclude image_encoder .
    [ ! -f "$STORE/vae/manifest.json" ] || bring vae "$STORE/vae" .
}

step 30 device "$PYTHON" -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
for part in $PARTS; do
    case $part in
        # pytest ends by itself before it is cut off: what failed, and why, is written at the end
        tests) TAIL=12 step 120 tests "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider --tb=short --timeout 45 --session-timeout 65 tests/test_gpu.py ;;
        sharing) TAIL=12 step 75 sharing "$PYTHON" -m benchmarks.gpu.sharing ;;
        training) make_data; if [ "$VAE_SECONDS" -gt 0 ]; then train_vae; fi; train_generator ;;
        preset_costs) TAIL=16 COSTS=${COSTS:-measured} step 75 preset_costs "$PYTHON" -W ignore -m benchmarks preset_costs ;;
        *) TAIL=12 step 65 "$part" "$PYTHON" -W ignore -m benchmarks "$part" ;;
    esac
done
