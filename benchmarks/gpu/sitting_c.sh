#!/bin/bash
# The generator at preset market's full size with random weights: memory and seconds a step beside docs/presets.md.
# Environment: see environment.sh; SIZE (sd15, tiny), BATCHES of canvases.
. "$(dirname "$0")/environment.sh"
export SIZE=${SIZE:-sd15} BATCHES=${BATCHES:-"1 4 16 64"}
TAIL=12 step 150 full-size-step "$PYTHON" -m benchmarks.gpu.full_size_step
step 150 check-model "$PYTHON" -m imagpose check-model --size "$SIZE" --device "$DEVICE"
