# Sourced by the sittings; also by itself, on every trip but the last: moves what came in travel/ out of the tree to $LOAD,
# and unpacks it there once all parts have come.
LOAD=${LOAD:-/tmp/imagpose-load}
mkdir -p "$LOAD/parts" "$LOAD/store"
for file in travel/wheels.tar travel/parts.sha256 travel/store.tar.gz.part-*; do
    [ ! -f "$file" ] || cp "$file" "$LOAD/parts/"
done
if [ -f "$LOAD/parts/wheels.tar" ]; then tar -x -C "$LOAD" -f "$LOAD/parts/wheels.tar" && rm "$LOAD/parts/wheels.tar"; fi
if [ -f "$LOAD/parts/parts.sha256" ]; then
    if missing=$(cd "$LOAD/parts" && sha256sum --check --quiet parts.sha256 2>/dev/null); then
        (cd "$LOAD/parts" && cut -c 67- parts.sha256 | xargs cat) | tar -x -z -C "$LOAD/store" \
            && rm "$LOAD"/parts/store.tar.gz.part-* "$LOAD/parts/parts.sha256" && echo "the store has arrived"
    else
        echo "not all parts have come: $(echo "$missing" | wc -l) of $(wc -l < "$LOAD/parts/parts.sha256") are still missing"
    fi
fi
