#!/bin/sh
# gpu_bundle.sh - puts what tests/gpu_check.sh needs into bundle/, to carry to a machine with a GPU that has
# neither compiler nor packages: binaries, the shared libraries they need but libc's and CUDA's, scripts,
# recipes. There: cd bundle && sh tests/gpu_check.sh
set -eu
BUILD=${BUILD:-build}
rm -rf bundle
mkdir -p bundle/build/gpu bundle/build/bench bundle/build/lib bundle/bench bundle/tests bundle/recipes
cp "$BUILD/rlhf" bundle/build/
cp "$BUILD/gpu/test_cuda" bundle/build/gpu/
cp "$BUILD/bench/bench_gpu" bundle/build/bench/
cp tests/gpu_check.sh tests/crash.sh bundle/tests/
cp bench/bench_torch.py bundle/bench/
cp recipes/quickstart.json recipes/quickstart.sh bundle/recipes/
for program in bundle/build/rlhf bundle/build/gpu/test_cuda; do
    ldd "$program" | sed -n 's|.*=> \(/[^ ]*\) .*|\1|p'
done | sort -u | while read -r library; do
    case ${library##*/} in
    libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | ld-linux*) ;;
    *) cp -L "$library" bundle/build/lib/ ;;
    esac
done
tar -cf - bundle | gzip -c > bundle.size && bytes=$(wc -c < bundle.size)
rm -f bundle.size
echo "bundle/: $((bytes / 1048576)) MiB packed"
[ "$bytes" -lt $((64 << 20)) ] || { echo "bundle/ is over 64 MiB" >&2; exit 1; }
