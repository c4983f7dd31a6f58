"""make_gguf.py - the tiny models of tests/fixtures/families as GGUF files, and blocks of K-quants.

    python3 tests/reference/make_gguf.py tests/fixtures/gguf

Needs gguf, torch and transformers. Tensors get the names and the arrangement that llama.cpp's converter
gives them; where transformers reads the architecture, too, its log-probabilities must be those of the
directory. blocks.json: bytes of one block of each format and the values that the gguf package makes of them.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent.parent / "fixtures" / "families"
ARCHS = {"llama3": "llama", "llama_bias": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "smollm3": "smollm3",
         "gemma2": "gemma2", "gemma3": "gemma3", "phi3": "phi3", "olmo2": "olmo2", "gpt2": "gpt2"}
UNREAD = {"smollm3", "olmo2", "llama_bias"}  # by transformers, or not with biases
LAYER = {"input_layernorm": "attn_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.qkv_proj": "attn_qkv", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.c_fc": "ffn_up", "mlp.down_proj": "ffn_down",
         "mlp.c_proj": "ffn_down", "pre_feedforward_layernorm": "ffn_norm",
         "post_feedforward_layernorm": "post_ffw_norm"}
OUTSIDE = {"model.embed_tokens": "token_embd", "wte": "token_embd", "wpe": "position_embd", "model.norm": "output_norm",
           "ln_f": "output_norm", "lm_head": "output"}


def name_of(key, arch):
    base, end = key.rsplit(".", 1)
    if base in OUTSIDE:
        return f"{OUTSIDE[base]}.{end}"
    layer, rest = base.removeprefix("model.layers.").removeprefix("h.").split(".", 1)
    if rest == "post_attention_layernorm":
        to = "post_attention_norm" if arch in ("gemma2", "gemma3", "olmo2") else "ffn_norm"
    else:
        to = LAYER[rest]
    return f"blk.{layer}.{to}.{end}"


def arranged(key, w, arch, c):
    if arch in ("llama", "smollm3") and (".q_proj." in key or ".k_proj." in key):
        heads = c["num_attention_heads"] if ".q_proj." in key else c["num_key_value_heads"]
        w = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
    if arch.startswith("gemma") and key.endswith("norm.weight"):
        w = w + 1
    if arch == "gpt2" and w.ndim == 2 and key.startswith("h."):
        w = w.T
    return np.ascontiguousarray(w)


def metadata(out, arch, c):
    def put(key, value):
        if value is not None:
            (out.add_uint32 if isinstance(value, int) else out.add_float32)(f"{arch}.{key}", value)

    heads, width = c.get("num_attention_heads", c.get("n_head")), c.get("hidden_size", c.get("n_embd"))
    put("embedding_length", width)
    put("block_count", c.get("num_hidden_layers", c.get("n_layer")))
    put("attention.head_count", heads)
    put("context_length", c.get("max_position_embeddings", c.get("n_positions")))
    put("feed_forward_length", c.get("intermediate_size", 4 * width))
    if arch == "gpt2":
        put("attention.layer_norm_epsilon", c["layer_norm_epsilon"])
        return
    size = c.get("head_dim", width // heads)
    put("attention.head_count_kv", c["num_key_value_heads"])
    put("attention.key_length", size)
    put("attention.value_length", size)
    put("rope.dimension_count", int(size * c.get("partial_rotary_factor", 1.0)))
    put("attention.layer_norm_rms_epsilon", c["rms_norm_eps"])
    put("rope.freq_base", float(c.get("rope_theta", 10000.0)))
    if arch in ("gemma2", "gemma3", "phi3"):
        put("attention.sliding_window", c["sliding_window"])
    if arch.startswith("gemma"):
        put("attention.scale", c["query_pre_attn_scalar"] ** -0.5)
    put("attention.sliding_window_pattern", c.get("sliding_window_pattern"))
    put("attn_logit_softcapping", c.get("attn_logit_softcapping"))
    put("final_logit_softcapping", c.get("final_logit_softcapping"))
    put("rope.freq_base_swa", c.get("rope_local_base_freq"))
    if arch == "gemma3":
        out.add_string("gemma3.rope.scaling.type", "linear")
        put("rope.scaling.factor", c["rope_scaling"]["factor"])
    if arch == "phi3":
        put("rope.scaling.original_context_length", c["original_max_position_embeddings"])


def llama3_factors(c):
    """What the converter writes for llama 3: by how much each frequency is slowed."""
    r, size = c["rope_parameters"], c["head_dim"]
    factors = []
    for i in range(0, size, 2):
        turns = r["original_max_position_embeddings"] / (2 * np.pi * r["rope_theta"] ** (i / size))
        low, high = r["low_freq_factor"], r["high_freq_factor"]
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / r["factor"] + smooth))
    return np.array(factors, np.float32)


def make(name, arch, to):
    c = json.loads((HERE / name / "config.json").read_text())
    out = gguf.GGUFWriter(to, arch)
    metadata(out, arch, c)
    for key, w in load_file(HERE / name / "model.safetensors").items():
        if key.endswith((".attn.bias", ".masked_bias")):
            continue
        w = arranged(key, w.float().numpy(), arch, c)
        bf16 = gguf.GGMLQuantizationType.BF16
        raw = gguf.quants.quantize(w, bf16) if w.ndim == 2 else w
        out.add_tensor(name_of(key, arch), raw, raw_dtype=bf16 if w.ndim == 2 else None)
    if name == "llama3":
        out.add_tensor("rope_freqs.weight", llama3_factors(c))
    if arch == "phi3":
        for kind in "short", "long":
            factors = np.array(c["rope_scaling"][f"{kind}_factor"], np.float32)
            out.add_tensor(f"rope_factors_{kind}.weight", factors)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    print(f"{name}: {to.stat().st_size} bytes{'' if name in UNREAD else check(name, to)}")


def check(name, path):
    golden = json.loads((HERE / name / "golden.json").read_text())
    config = AutoConfig.from_pretrained(HERE / name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config,
                                                 attn_implementation="eager").eval()
    logp = []
    for row in golden["ids"]:
        z = torch.log_softmax(model(torch.tensor([row])).logits[0, :-1], -1)
        logp += z[range(len(row) - 1), row[1:]].tolist()
    worst = max(abs(a - b) for a, b in zip(logp, golden["logp"], strict=True))
    return f", transformers reads it: {worst:.1e}{'' if worst < 1e-4 else ' TOO LARGE'}"


def blocks(to):
    random, all_blocks = np.random.default_rng(1), {}
    for kind in "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K":
        t = gguf.GGMLQuantizationType[kind]
        size = gguf.GGML_QUANT_SIZES[t][1]
        raw = random.integers(0, 256, size, dtype=np.uint8)
        scale = np.array([0.011, -0.07], np.float16).view(np.uint8)
        if kind == "Q6_K":
            raw[-2:] = scale[:2]
        else:
            n = 2 if kind in ("Q4_0", "Q8_0") else 4
            raw[:n] = scale[:n]
        values = gguf.quants.dequantize(raw.reshape(1, -1), t)[0]
        all_blocks[kind] = {"type": int(t), "bytes": raw.tolist(), "values": [float(v) for v in values]}
    (to / "blocks.json").write_text(json.dumps(all_blocks) + "\n")


to = pathlib.Path(sys.argv[1])
to.mkdir(parents=True, exist_ok=True)
blocks(to)
for name, arch in ARCHS.items():
    if len(sys.argv) > 2 and name not in sys.argv[2:]:
        continue
    make(name, arch, to / f"{name}.gguf")
