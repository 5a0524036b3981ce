# Sourced by the sittings that need data: parts from travel/ become $DATA/market.zip, $DATA/keypoints, $DATA/others.
DATA=${DATA:-/tmp/imagpose-data}
mkdir -p "$DATA/keypoints" "$DATA/others"
[ -f "$DATA/market.zip" ] || cat travel/market.zip.part-* > "$DATA/market.zip"
[ -n "$(ls "$DATA/keypoints")" ] || cat travel/keypoints.tar.part-* | tar -x -C "$DATA/keypoints"
[ -n "$(ls "$DATA/others")" ] || cat travel/others.tar.part-* | tar -x -C "$DATA/others"
