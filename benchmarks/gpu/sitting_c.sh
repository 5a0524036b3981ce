#!/bin/bash
# The generator at preset market's full size with random weights: memory and seconds a step beside docs/presets.md.
. "$(dirname "$0")/environment.sh"
step 60 counted "$PYTHON" -m benchmarks preset_costs
step 240 full-size "$PYTHON" -m imagpose check-model --size "${SIZE:-sd15}" --device "$DEVICE"
step 200 training-step "$PYTHON" -m benchmarks training_step
echo "done after $(($(date +%s) - STARTED)) s"
