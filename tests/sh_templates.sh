#!/bin/sh
# sh_templates.sh - models that do not speak ChatML, from nothing to an aligned model: SFT, DPO and PPO learn
# from what the model's own template writes, and answers end at its own end of a turn. One template is like
# Llama-3's, one like Gemma's; TEMPLATES="llama3.jinja gemma3.jinja" tries others of these families.
set -u

rlhf=${BUILD:-build}/rlhf
w=$(mktemp -d) || exit 1
trap 'rm -rf "$w"' EXIT

die() {
    echo "$1"
    tail -n 20 "$w/log" 2> /dev/null
    exit 1
}
run() { "$rlhf" "$@" > "$w/log" 2>&1 || die "rlhf $* failed"; }

cat > "$w/llama3.jinja" << 'END'
{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>

' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>

' }}{% endif %}
END
cat > "$w/gemma3.jinja" << 'END'
{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '
' + m['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model
' }}{% endif %}
END

# rows: four questions with one right answer each
: > "$w/sft.jsonl"
: > "$w/pairs.jsonl"
: > "$w/prompts.jsonl"
for word in apple stone river cloud; do
    q="{\"role\":\"user\",\"content\":\"Say $word\"}"
    echo "{\"messages\":[$q,{\"role\":\"assistant\",\"content\":\"$word it is\"}]}" >> "$w/sft.jsonl"
    echo "{\"prompt\":[$q],\"chosen\":\"$word it is\",\"rejected\":\"no $word here\"}" >> "$w/pairs.jsonl"
    echo "{\"messages\":[$q]}" >> "$w/prompts.jsonl"
done
run data train-tokenizer --data "$w/sft.jsonl,$w/pairs.jsonl" --vocab-size 300 --out "$w/tok"

# the families' special tokens, behind the others
id=400 added=
for token in '<|begin_of_text|>' '<|start_header_id|>' '<|end_header_id|>' '<|eot_id|>' '<bos>' '<start_of_turn>' '<end_of_turn>'; do
    added="$added{\"id\":$id,\"content\":\"$token\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},"
    id=$((id + 1))
done
sed -i "s/\"added_tokens\":\[/&$added/" "$w/tok/tokenizer.json"

# align NAME TEMPLATE BOS END
align() {
    echo "{\"bos_token\":\"$3\",\"eos_token\":\"<|eos|>\"}" > "$w/tok/tokenizer_config.json"
    cp "$w/tok/tokenizer_config.json" "$w/tok/special_tokens_map.json"
    shape="--hidden-size 64 --num-hidden-layers 2 --intermediate-size 128 --max-position-embeddings 128"
    run model init --family llama --tokenizer "$w/tok" --chat-template "$2" --out "$w/$1/init" $shape
    run model init --family llama --tokenizer "$w/tok" --chat-template "$2" --out "$w/$1/rm" --reward-model $shape
    common="--max_length 128 --run.eval_every 0"

    run data show "$w/sft.jsonl" --model "$w/$1/init" --rows 1
    grep -qF "[[apple it is$4]]" "$w/log" || die "$1: what is trained is not the answer and its end"
    run sft --model "$w/$1/init" --data.train "$w/sft.jsonl" --run.dir "$w/$1/sft" $common --learning_rate 3e-3 --epochs 200 --batch_size 4
    model=$w/$1/sft/model
    run generate --model "$model" --data "$w/prompts.jsonl" --out "$w/answers.jsonl" --greedy --max-tokens 40
    for word in apple stone river cloud; do
        grep -q "\"completion\":\"$word it is\",.*\"stop\":\"eos\"" "$w/answers.jsonl" ||
            { cp "$w/answers.jsonl" "$w/log"; die "$1: the answer to $word is not what was trained"; }
    done
    run tokenize --model "$model" --data "$w/sft.jsonl" --out "$w/ids.jsonl"
    run detokenize --model "$model" --data "$w/ids.jsonl" --out "$w/text.jsonl"
    grep -qF "apple it is$4\"}" "$w/text.jsonl" || die "$1: a conversation does not end with $4"

    run dpo --model "$model" --data.train "$w/pairs.jsonl" --run.dir "$w/$1/dpo" $common --learning_rate 1e-3 --max_steps 4 --batch_size 4
    run ppo --model "$model" --reward_model "$w/$1/rm" --data.train "$w/prompts.jsonl" --run.dir "$w/$1/ppo" $common \
        --max_new_tokens 24 --max_steps 2 --ppo.batch_size 4 --ppo.learning_rate 1e-4
    for stage in dpo ppo; do
        run generate --model "$w/$1/$stage/model" --data "$w/prompts.jsonl" --out "$w/answers.jsonl" --greedy --max-tokens 40
        [ "$(grep -c '"stop":"eos"' "$w/answers.jsonl")" -ge 3 ] ||
            { cp "$w/answers.jsonl" "$w/log"; die "$1: answers after $stage do not end"; }
    done
}

set -- ${TEMPLATES:-"$w/llama3.jinja" "$w/gemma3.jinja"}
align llama3 "$1" '<|begin_of_text|>' '<|eot_id|>'
align gemma "$2" '<bos>' '<end_of_turn>'
