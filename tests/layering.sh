#!/bin/sh
# layering.sh - every include points down, device code stays where it belongs, only rlhf.c exits.
set -u
LC_ALL=C
export LC_ALL

bad=$(mktemp) || exit 1
trap 'rm -f "$bad"' EXIT

LIBRARY="core policy reward sft dpo ppo datasets monitor"
dirs=
for d in $LIBRARY; do [ ! -d "$d" ] || dirs="$dirs $d"; done

# shellcheck disable=SC2086
find $dirs -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort > "$bad.files"
trap 'rm -f "$bad" "$bad.files"' EXIT

# Folders by height; a file includes its own folder and lower ones. Equal heights do not know each other.
xargs awk '
function height(path) {
    if (path ~ /^core\/base\//) return 0
    if (path ~ /^core\/backend\//) return 1
    if (path ~ /^core\/comm\//) return 2
    if (path ~ /^core\/model\//) return 3
    if (path ~ /^core\/run\//) return 1 # settings, logs and files: knows no network
    if (path ~ /^core\//) return 4
    if (path ~ /^(datasets|monitor)\//) return 5
    if (path ~ /^policy\//) return 6
    if (path ~ /^reward\//) return 7
    if (path ~ /^(sft|dpo|ppo)\//) return 8
    return -1
}
function folder(path) {
    if (path ~ /^core\//) return two_levels(path)
    sub(/\/.*/, "", path)
    return path
}
function two_levels(path,  parts) {
    split(path, parts, "/")
    return parts[1] "/" parts[2]
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
    target = $0
    sub(/^[^"]*"/, "", target)
    sub(/".*/, "", target)
    if (target !~ /\//) next # beside the file itself
    to = height(target)
    from = height(FILENAME)
    if (to < 0) print FILENAME ":" FNR ": includes " target ", which is no part of the library"
    else if (folder(FILENAME) != folder(target) && to >= from)
        print FILENAME ":" FNR ": includes " target ", which does not lie below " folder(FILENAME)
}' < "$bad.files" >> "$bad"

grep -E '\.cuh?$' "$bad.files" | grep -v '^core/backend/cuda/' |
    sed 's/$/: CUDA code stands outside core\/backend\/cuda/' >> "$bad"

grep -vE '^core/(backend|comm)/' "$bad.files" |
    xargs grep -nE '^[ \t]*#[ \t]*(if|ifdef|ifndef|elif).*(CUDA|NVCC|NCCL|HAVE_MPI|HAVE_GPU)' /dev/null |
    sed 's/$/   <- a device is asked for above core\/backend and core\/comm/' >> "$bad"

# exit( outside of comments and strings; _exit in a signal handler is another function
xargs awk '
FNR == 1 { comment = 0 }
{
    line = $0
    gsub(/"([^"\\]|\\.)*"/, "\"\"", line)
    code = ""
    while (line != "") {
        if (comment) {
            end = index(line, "*/")
            if (!end) break
            line = substr(line, end + 2)
            comment = 0
        } else if (match(line, /\/\*|\/\//)) {
            code = code substr(line, 1, RSTART - 1) " "
            if (substr(line, RSTART, 2) == "//") break
            line = substr(line, RSTART + 2)
            comment = 1
        } else {
            code = code line
            break
        }
    }
    if (code ~ /(^|[^_A-Za-z0-9])exit[ \t]*\(/) print FILENAME ":" FNR ": calls exit; only rlhf.c does"
}' < "$bad.files" >> "$bad"

if [ -s "$bad" ]; then
    cat "$bad" >&2
    echo "layering: $(wc -l < "$bad") violations" >&2
    exit 1
fi
echo "layering: $(wc -l < "$bad.files") files, every include points down"
