# Sourced by the recipes, which set WORK, the directory that everything goes to, and STEPS, how many steps they have.
#
#   step NAME COMMAND…     echoes a command, runs it with its output in WORK/logs/NAME.log and its seconds in
#                          NAME.seconds; a step that an earlier run has finished with the same command is left out.
#                          In a terminal, commands of ours show their bars and write their log themselves; of others the
#                          seconds are shown.
#   cell FILE KEY [FORMAT] prints a value of a JSON file; KEY.KEY is inside another

set -euo pipefail
number=0

step() {
    local name=$1 log=$WORK/logs/$1.log
    shift
    number=$((number + 1))
    printf '\n[%s, step %d of %d]' "$name" "$number" "$STEPS"
    if [ -e "$WORK/logs/$name.seconds" ] && [ "$*" = "$(cat "$WORK/logs/$name.command")" ]; then
        printf ' done before, in %s s\n' "$(cat "$WORK/logs/$name.seconds")"
        return
    fi
    printf '\n$ %s\n' "$*"
    local start=$SECONDS status=0
    mkdir -p "$WORK/logs"
    logged "$log" "$@" || status=$?
    if [ "$status" = 130 ] || [ "$status" = 143 ]; then # SIGINT, SIGTERM
        echo "$name was stopped; the same recipe goes on from here" >&2
        exit "$status"
    elif [ "$status" != 0 ]; then
        tail -n 5 "$log"
        echo "$name failed; its whole output is in $log" >&2
        exit 1
    fi
    results "$log" | tail -n 4 || true
    echo "$*" >"$WORK/logs/$name.command"
    echo "$((SECONDS - start))" >"$WORK/logs/$name.seconds"
    echo "$((SECONDS - start)) s"
}

# logged LOG COMMAND… runs a command with its output in a log
logged() {
    local log=$1 status=0
    shift
    if ! [ -t 2 ]; then
        "$@" >"$log" 2>&1
    elif is_ours "$@"; then
        : >"$log"
        "$@" --log-file "$log" >>"$log"
    else
        clock &
        "$@" >"$log" 2>&1 || status=$?
        kill $!
        wait $! 2>/dev/null || true
        printf '\r' >&2
        return "$status"
    fi
}

is_ours() {
    [[ $1 = fairseq-* ]]
}

# Shows seconds in the terminal until it is stopped, or the recipe is: Ctrl-C does not reach what runs in the background.
clock() {
    local start=$SECONDS
    while sleep 1 && kill -0 $$ 2>/dev/null; do
        printf '\r%d s' "$((SECONDS - start))" >&2
    done
}

# results LOG prints the lines that say what has come out; those that a terminal has shown already are left out
results() {
    { if [ -t 2 ]; then grep -v ' | INFO | ' "$1"; else cat "$1"; fi; } |
        grep -o -E 'Dictionary: .*|[^ ]+: [0-9,]+ sents, .*|done training .*|wrote [0-9,]+ rows .*|Loss \(base 2\).*'
}

cell() {
    python - "$1" "$2" "${3:-.2f}" <<'END'
import functools, json, sys

file, keys, form = sys.argv[1:]
print(format(functools.reduce(dict.__getitem__, keys.split("."), json.load(open(file))), form))
END
}
