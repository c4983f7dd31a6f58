#!/bin/sh
# gpu_registers.sh - registers, spills and static shared memory of every kernel, as ptxas counts them: a table
# of Markdown, a row for each kernel over all its instances. `make gpu-registers` calls it (ARCH=sm_90a).
set -u
LC_ALL=C
export LC_ALL
ARCH=${ARCH:-sm_90a}
NVCC=${NVCC:-nvcc}
out=$(mktemp) || exit 1
trap 'rm -f "$out" "$out.o"' EXIT

for f in core/backend/cuda/*.cu; do
    $NVCC -std=c++17 -O3 -I. -arch="$ARCH" -Xptxas -v -c -o "$out.o" "$f" 2>&1 |
        sed -n -e "s/.*Compiling entry function '\([^']*\)'.*/kernel \1/p" \
            -e "s/.*bytes stack frame, \([0-9]*\) bytes spill stores, \([0-9]*\) bytes spill loads.*/spills \1 \2/p" \
            -e "s/.*Used \([0-9]*\) registers\(.*\)/used \1 \2/p" | c++filt -p | sed "s|^kernel |kernel $f |" >> "$out"
done

awk '
BEGIN { print "| kernel | instances | registers | bytes spilled | bytes shared, static |"; print "|---|---|---|---|---|" }
$1 == "kernel" {
    file = $2
    sub(/.*\//, "", file)
    name = $0
    sub(/^kernel [^ ]* /, "", name)
    sub(/^void /, "", name)
    gsub(/\(anonymous namespace\)::/, "", name)
    sub(/<.*/, "", name)
    sub(/\(.*/, "", name)
    key = "`" name "`, " file
    if (!(key in count)) order[++n] = key
    count[key]++
}
$1 == "spills" && $2 > spilled[key] { spilled[key] = $2 }
$1 == "used" {
    if (!(key in least) || $2 < least[key]) least[key] = $2
    if ($2 > most[key]) most[key] = $2
    smem = 0
    for (i = 3; i <= NF; i++) if ($i == "bytes" && $(i + 1) ~ /^smem/) smem = $(i - 1)
    if (smem + 0 > shared[key] + 0) shared[key] = smem
}
END {
    for (i = 1; i <= n; i++) {
        k = order[i]
        regs = least[k] == most[k] ? most[k] : least[k] "-" most[k]
        printf "| %s | %d | %s | %d | %d |\n", k, count[k], regs, spilled[k], shared[k]
    }
}' "$out"
