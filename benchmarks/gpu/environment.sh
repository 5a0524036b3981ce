# Sourced by the sittings: what a GPU machine without a network needs besides its own torch, and how long there is.
# docs/gpu.md explains every variable. Whatever ends a sitting, what it has is left in $OUT: few files, each below 15 MiB.
set -u
STARTED=$(date +%s)
SECONDS_IN_ALL=${SECONDS_IN_ALL:-520} DEVICE=${DEVICE:-auto} PYTHON=${PYTHON:-python3}
LOAD=${LOAD:-/tmp/imagpose-load} OUT=${OUT:-runs/gpu} LOGS=$(mktemp -d)
STORE=${STORE:-$LOAD/store} SITE=$LOAD/site
mkdir -p "$OUT" "$STORE"
. "$(dirname "${BASH_SOURCE[0]}")/unpack.sh"
if [ -d "$LOAD/wheels" ] && [ ! -e "$SITE.ready" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$SITE" "$LOAD"/wheels/*.whl || exit 1
    touch "$SITE.ready"
fi
export PYTHONPATH="$PWD:$SITE${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 PYTHONUNBUFFERED=1 STORE DEVICE
echo "ready after $(($(date +%s) - STARTED)) s"

left() { echo $((SECONDS_IN_ALL - $(date +%s) + STARTED)); }

# step SECONDS NAME COMMAND...: run it for at most so long, and no longer than what is left; its output goes to NAME.txt.
# SIGTERM first: our commands then save where they are, and the next sitting goes on from there.
step() {
    local most=$(($1 * ${SLOW:-1})) name=$2; shift 2
    local seconds=$(($(left) < most ? $(left) : most))
    if [ "$seconds" -lt 5 ]; then echo "$name: no time left"; return 0; fi
    local begun=$(date +%s)
    timeout --signal TERM --kill-after 20 "$seconds" "$@" > "$LOGS/$name.txt" 2>&1 &
    running=$!
    wait "$running"
    local code=$?
    echo "$name: exit $code after $(($(date +%s) - begun)) s of at most $seconds"
    tail -n "${TAIL:-4}" "$LOGS/$name.txt" | cut -c 1-300 | sed 's/^/    /'
}

# bring NAME FOLDER TAR_ARGUMENTS...: an archive of FOLDER in parts of 15 MB.
bring() {
    local name=$1 folder=$2; shift 2
    tar -c -z -C "$folder" "$@" 2>/dev/null | split --bytes 15MB --numeric-suffixes=1 --suffix-length 1 - "$OUT/$name.tar.gz.part-"
}

finish() {
    trap - EXIT TERM INT
    [ -z "${running:-}" ] || kill -TERM "$running" 2>/dev/null
    wait
    if declare -F results > /dev/null; then results; fi
    bring logs "$LOGS" .
    echo "done after $(($(date +%s) - STARTED)) s"
}
trap finish EXIT
trap 'exit 143' TERM INT
