# Sourced by the recipes, which set WORK, the directory that everything goes to.
#
#   step NAME COMMAND…     echoes a command, runs it with its output in WORK/logs/NAME.log and its seconds in
#                          NAME.seconds; a step that an earlier run has finished with the same command is left out
#   cell FILE KEY [FORMAT] prints a value of a JSON file; KEY.KEY is inside another

set -euo pipefail

step() {
    local name=$1 log=$WORK/logs/$1.log
    shift
    printf '\n[%s]' "$name"
    if [ -e "$WORK/logs/$name.seconds" ] && [ "$*" = "$(cat "$WORK/logs/$name.command")" ]; then
        printf ' done before, in %s s\n' "$(cat "$WORK/logs/$name.seconds")"
        return
    fi
    printf '\n$ %s\n' "$*"
    local start=$SECONDS
    mkdir -p "$WORK/logs"
    if ! "$@" >"$log" 2>&1; then
        tail -n 5 "$log"
        echo "$name failed; its whole output is in $log" >&2
        exit 1
    fi
    grep -h -o -E 'Dictionary: .*|[^ ]+: [0-9,]+ sents, .*|done training .*|wrote [0-9,]+ rows .*|Loss \(base 2\).*' \
        "$log" | tail -n 4 || true
    echo "$*" >"$WORK/logs/$name.command"
    echo "$((SECONDS - start))" >"$WORK/logs/$name.seconds"
    echo "$((SECONDS - start)) s"
}

cell() {
    python - "$1" "$2" "${3:-.2f}" <<'END'
import functools, json, sys

file, keys, form = sys.argv[1:]
print(format(functools.reduce(dict.__getitem__, keys.split("."), json.load(open(file))), form))
END
}
