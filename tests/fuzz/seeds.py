"""seeds.py - the whole inputs that fuzzing begins from, into tests/fuzz/corpus: python3 tests/fuzz/seeds.py.
Needs the command zstd. Inputs that once broke something lie beside them under names of their own."""
import gzip, json, pathlib, struct, subprocess

corpus = pathlib.Path(__file__).parent / "corpus"

def put(target, name, data):
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

# safetensors
def safetensors(header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data

put("safetensors", "three", safetensors({
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "F16", "shape": [], "data_offsets": [32, 34]}}, bytes(range(34))))
put("safetensors", "empty", safetensors({"e": {"dtype": "I64", "shape": [0, 7], "data_offsets": [0, 0]}}, b""))

# the index of shards
put("index", "two", json.dumps({"metadata": {"total_size": 2}, "weight_map": {"a": "a.safetensors", "c": "b.safetensors"}}))
put("index", "outside", json.dumps({"weight_map": {"a": "../a.safetensors"}}))

# GGUF
def string(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()

def value(v):
    if isinstance(v, bool): return struct.pack("<I?", 7, v)
    if isinstance(v, int): return struct.pack("<II", 4, v)
    if isinstance(v, float): return struct.pack("<If", 6, v)
    if isinstance(v, str): return struct.pack("<I", 8) + string(v)
    kind = 8 if isinstance(v[0], str) else 5
    return struct.pack("<IIQ", 9, kind, len(v)) + b"".join(string(x) if kind == 8 else struct.pack("<i", x) for x in v)

def gguf(keys, tensors):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for k, v in keys.items(): head += string(k) + value(v)
    at, body = 0, b""
    for name, dims, kind, data in tensors:
        head += string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        head += struct.pack("<IQ", kind, at)
        body += data + b"\0" * (-len(data) % 32)
        at = len(body)
    return head + b"\0" * (-len(head) % 32) + body

llama = {"general.architecture": "llama", "llama.embedding_length": 32, "llama.block_count": 1,
         "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1, "llama.feed_forward_length": 32,
         "llama.context_length": 64, "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 1e4,
         "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
         "tokenizer.ggml.tokens": ["<|e|>", "a", "b", "ab"], "tokenizer.ggml.token_type": [3, 1, 1, 1],
         "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.add_bos_token": False,
         "tokenizer.chat_template": "{{ messages[0].content }}"}
put("gguf", "llama", gguf(llama, [("token_embd.weight", [32, 4], 8, bytes(34 * 4)), ("output_norm.weight", [32], 0, bytes(128)),
                                  ("blk.0.ffn_up.weight", [32, 32], 2, bytes(18 * 32)), ("blk.0.ffn_down.weight", [32, 32], 3, bytes(20 * 32)),
                                  ("blk.0.ffn_gate.weight", [32, 2], 1, bytes(128)), ("blk.0.attn_q.weight", [32, 2], 30, bytes(128))]))
put("gguf", "alignment", gguf({"general.alignment": 64, "general.architecture": "qwen3"}, []))

# a checkpoint's manifest, with (+) and without the hash in front
manifest = json.dumps({"format": 1, "step": 1, "files": [{"name": "weights", "bytes": "10", "xxh3": "6de3431b05f7c11f"}],
                       "logs": {"metrics.jsonl": "0"}})
put("manifest", "hashed", "+" + manifest[1:] + "\n")
put("manifest", "bare", manifest)

# rows: the first byte is their kind and how they are written
messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
rows = [{"prompt": "q", "completion": "a"}, {"messages": messages}, {"text": "a b"}, {"messages": [{"role": "tool", "content": None}] + messages}]
put("jsonl", "sft", "\0" + "\r\n".join(json.dumps(r) for r in rows) + "\n")
pairs = [{"prompt": "q", "chosen": "a", "rejected": "b", "margin": 0.5}, {"chosen": "\n\nHuman: x\n\nAssistant: y", "rejected": "\n\nHuman: x\n\nAssistant: z"},
         {"prompt": [messages[0]], "chosen": messages, "rejected": messages[:1] + [{"role": "assistant", "content": [{"type": "text", "text": "no"}]}]}]
put("jsonl", "pairs", "\x01" + "\n".join(json.dumps(r) for r in pairs))
put("jsonl", "chatml", b"\xc8" + "\n".join(json.dumps(r) for r in rows).encode())
put("jsonl", "prompts", "\x02\xef\xbb\xbf".encode("latin-1") + json.dumps({"prompt": messages[:1], "id": 1}).encode())

# lines
text = b"one\n\ntwo\r\nthree"
put("stream", "plain", text)
put("stream", "gz", gzip.compress(text, mtime=0) + gzip.compress(b"four\n", mtime=0))
put("stream", "zst", subprocess.run(["zstd", "-c"], input=text, capture_output=True, check=True).stdout)
put("stream", "parquet", b"PAR1\x15\x04")

# recipes
put("recipe", "sft", '{ // a comment\n"verb":"sft","model":"m","run":{"dir":"r","seed":"18446744073709551615"},"data":{"train":["a","b"],'
                     '"weights":["1","2"]},"init":{"rope_theta":1e4},"sft":{"learning_rate":2e-5,"batch_size":8}}')
put("recipe", "wrong", '{"sft":{"learning_rate":"x","lr":1},"stages":[]}')

# tokenizers
model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|x|>": 4}, "merges": ["a b"]}
put("tokenizer", "bytes", json.dumps({
    "added_tokens": [{"id": 4, "content": "<|x|>", "special": True, "normalized": False, "lstrip": True}],
    "normalizer": {"type": "NFC"}, "model": model, "decoder": {"type": "ByteLevel"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{N}|[^\\s\\p{L}]+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": False},
        {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|x|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                       "pair": [], "special_tokens": {"<|x|>": {"id": "<|x|>", "ids": [4], "tokens": ["<|x|>"]}}}}, ensure_ascii=False))
put("tokenizer", "characters", json.dumps({
    "added_tokens": [], "pre_tokenizer": None, "post_processor": None,
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "Lowercase"}]},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True, "ignore_merges": True,
              "vocab": {"<unk>": 0, "▁": 1, "e": 2, "l": 3, "<0x0A>": 4, "el": 5}, "merges": [["e", "l"]]}}, ensure_ascii=False))

# texts to encode: the first byte is the tokenizer and its flags
for flags in range(8):
    put("bpe", f"flags{flags}", bytes([flags]) + "  the ab<|eos|></s>  12 wörld \xff".encode() + b"\xc3\x28\xf0\x9f")

# templates
put("template", "chatml", "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
                          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
put("template", "much", "{%- set ns = namespace(i=0, s='') -%}{% macro f(a, b='x') %}{{ a ~ b }}{% endmacro %}"
                        "{%- for m in messages if m.role != 'system' -%}{% generation %}{{ m.content|trim|replace('q', f(m.role))|upper }}{% endgeneration %}"
                        "{% set ns.i = ns.i + loop.index0 * 2 %}{% if loop.last %}{% break %}{% elif m.tool_calls is defined %}{{ m.tool_calls|tojson(indent=2) }}{% else %}{{ m['content'][::-1] }}{% endif %}"
                        "{%- endfor -%}{{ (messages|map(attribute='role')|join(',')).split(',')[0][1:] if ns.i > 1 else raise_exception('no') }}"
                        "{% raw %}{{ }}{% endraw %}{{ strftime_now('%d') is string }}{{ range(3)|list|reverse|first|string|int }}")
put("template", "own", b"{{ messages[0].x.y|default('z') }}\0[{\"x\":{\"y\":\"\\u00e9\"}}]")

# a run directory's files, parted by 0xff, and requests: Host, path, position
put("run", "ppo", b"\xff".join([
    b'{"step":1,"wall_time":1,"tokens":5,"loss":null,"eval/loss":2}\n{"step":2,"wall_time":2,"tokens":9,"loss":1e300}\n{"step":3',
    b'{"step":1,"prompt":"</script>","completion":"<b>","tokens":{"text":["<b>"],"kl":[0.5]}}\nnonsense\n',
    b'{"step":1,"id":"A1","metric":"loss","value":2,"limit":1,"severity":"stop"}\n',
    b'{"model":"m","ppo":{"clip":0.2}}', b'{"verb":"ppo","finished":true,"gold_after":1}',
    b'{"kind":"reward","reliability":[{"confidence":0.6,"accuracy":0.5,"n":3}]}']))
put("run", "broken", b"[1]\n{}\n{\"step\":\"x\"}\n\xff\xff{\xff[]\xff{\"verb\":3}\xff\x00")
put("request", "local", "127.0.0.1:8080\n/tail\n16-0123456789abcdef\n")
put("request", "brackets", "[::1]:80\n/../data.json\n1--2\n")
