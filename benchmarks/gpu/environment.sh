# Sourced by the sittings: what a GPU machine without a network needs besides its own torch, and how long there is.
# WHEELS: folder of wheels that travelled along (benchmarks/gpu/pack.sh); SECONDS_IN_ALL: until everything must be saved.
set -u
WHEELS=${WHEELS:-travel/wheels} SITE=${SITE:-/tmp/imagpose-site} STORE=${STORE:-/tmp/imagpose-store} OUT=${OUT:-runs/gpu}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-520} DEVICE=${DEVICE:-auto} PYTHON=${PYTHON:-python3}
STARTED=$(date +%s)
mkdir -p "$OUT" "$STORE"
if [ -d "$WHEELS" ] && [ ! -d "$SITE" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$SITE" "$WHEELS"/*.whl || exit 1
fi
export PYTHONPATH="$PWD:$SITE${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 DO_NOT_TRACK=1

left() { echo $((SECONDS_IN_ALL - $(date +%s) + STARTED)); }

# step SECONDS NAME COMMAND...: run it for at most so long, and no longer than what is left; its output goes to NAME.txt.
# SIGTERM first: our commands then save where they are, and the next sitting goes on from there.
step() {
    local most=$1 name=$2; shift 2
    local seconds=$(($(left) < most ? $(left) : most))
    if [ "$seconds" -lt 5 ]; then echo "$name: no time left"; return 0; fi
    local begun=$(date +%s)
    timeout --signal TERM --kill-after 20 "$seconds" "$@" > "$OUT/$name.txt" 2>&1
    echo "$name: exit $? after $(($(date +%s) - begun)) s of at most $seconds"
}
