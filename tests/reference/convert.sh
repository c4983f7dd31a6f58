#!/bin/sh
# convert.sh - SmolLM2 from its GGUF file as a Hugging Face directory: transformers, with the directory's own
# tokenizer and template, says greedily what rlhf says. Skipped without models/smollm2-135m-instruct.gguf (make
# smollm2) or where Python has no torch or transformers (PYTHON=... picks one).
PYTHON=${PYTHON:-python3}
rlhf=${BUILD:-build}/rlhf
model=models/smollm2-135m-instruct.gguf
if [ ! -f $model ] || ! "$PYTHON" -c 'import torch, transformers' 2> /dev/null; then
    echo "convert: skipped, without $model or $PYTHON with torch and transformers"
    exit 0
fi
w=$(mktemp -d) || exit 1
trap 'rm -rf "$w"' EXIT
cat > "$w/prompts.jsonl" << 'END'
{"messages":[{"role":"user","content":"What is the capital of France?"}]}
{"messages":[{"role":"user","content":"Name three colours."}]}
{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello! How can I help?"},{"role":"user","content":"Écris «bonjour» 5 fois."}]}
{"prompt":"Write one sentence about the sea."}
END
"$rlhf" model convert $model --out "$w/one" 2> "$w/log" && "$rlhf" model convert $model --out "$w/shards" --dtype f32 \
    --max-shard-size 100MB 2>> "$w/log" || { cat "$w/log"; exit 1; }
"$rlhf" generate --model $model --data "$w/prompts.jsonl" --out "$w/answers.jsonl" --greedy --max-tokens 48 || exit 1
for form in one shards; do
    "$PYTHON" tests/reference/convert.py "$w/$form" "$w/answers.jsonl" || exit 1
done
