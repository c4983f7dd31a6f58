"""make_families.py - tiny random models of each family, computed by transformers in float64.

    python3 tests/reference/make_families.py tests/fixtures/families           # writes NAME/...
    build/tests/test_families --write DIR                                      # our copies of them
    python3 tests/reference/make_families.py --check DIR                       # read by transformers

Needs torch and transformers. Writes for each: config.json, model.safetensors (BF16), golden.json (ids of
two sequences and the log-probability of each token) and gradients.safetensors (of the mean negative
log-probability). --check compares the copies' log-probabilities with golden.json, and with what we
computed the scores of the copies with a score head and the tokens that are likeliest one after another.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

V, LENGTHS = 32, [21, 12]
SHAPE = dict(vocab_size=V, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=4, max_position_embeddings=64, rms_norm_eps=1e-5,
             bos_token_id=1, eos_token_id=2, pad_token_id=None, tie_word_embeddings=False, rope_theta=10000.0)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)
DYNAMIC = dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)
LONGROPE = dict(type="longrope", short_factor=[1.0, 1.5, 3.0], long_factor=[1.0, 4.0, 9.0])
ABSENT = object()
CASES = {
    "llama3": dict(model_type="llama", head_dim=8, rope_parameters=LLAMA3, rope_theta=ABSENT, tie_word_embeddings=True),
    "mistral": dict(model_type="mistral", rope_scaling={"type": "linear", "factor": 2.5}, sliding_window=32),
    "llama_bias": dict(model_type="llama", attention_bias=True, mlp_bias=True),
    "qwen2": dict(model_type="qwen2", head_dim=ABSENT, use_sliding_window=False,
                  sliding_window=8, max_window_layers=1),
    "qwen3": dict(model_type="qwen3", head_dim=6, tie_word_embeddings=True),
    "smollm3": dict(model_type="smollm3", head_dim=ABSENT, no_rope_layers=[1, 0],
                    tie_word_embeddings=True),
    "mistral_window": dict(model_type="mistral", sliding_window=5, rope_parameters=YARN, rope_theta=ABSENT),
    "qwen2_window": dict(model_type="qwen2", head_dim=ABSENT, use_sliding_window=True, sliding_window=7,
                         max_window_layers=1, rope_parameters=DYNAMIC, rope_theta=ABSENT),
    "phi3": dict(model_type="phi3", head_dim=ABSENT, hidden_size=32, partial_rotary_factor=0.75,
                 rope_scaling=LONGROPE, original_max_position_embeddings=32, sliding_window=11),
    "gpt2": dict(model_type="gpt2", n_embd=16, n_layer=2, n_head=4, n_positions=40, n_inner=None,
                 layer_norm_epsilon=1e-5, tie_word_embeddings=True),
    "gemma2": dict(model_type="gemma2", head_dim=6, hidden_activation="gelu_pytorch_tanh", sliding_window=5,
                   query_pre_attn_scalar=10, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
                   tie_word_embeddings=True),
    "gemma3": dict(model_type="gemma3_text", head_dim=6, num_hidden_layers=3, sliding_window=5,
                   sliding_window_pattern=2, hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=10,
                   rope_theta=1000000.0, rope_local_base_freq=100.0, tie_word_embeddings=True,
                   rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "olmo2": dict(model_type="olmo2", head_dim=ABSENT),
    "gpt_neox": dict(model_type="gpt_neox", hidden_size=32, head_dim=ABSENT, rotary_pct=0.5, rope_theta=ABSENT,
                     rotary_emb_base=1000.0, layer_norm_eps=1e-5, hidden_act="gelu"),
    "gpt_neox_serial": dict(model_type="gpt_neox", head_dim=ABSENT, rotary_pct=1.0, use_parallel_residual=False,
                            rope_theta=ABSENT, layer_norm_eps=1e-5, hidden_act="gelu_new"),
}
OTHER_NAMES = {  # SHAPE's keys that a family does not have
    "gpt2": ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta"],
    "gpt_neox": ["num_key_value_heads", "rms_norm_eps"],
}


def model_at(path, kind=AutoModelForCausalLM):
    return kind.from_pretrained(path, dtype=torch.float64, attn_implementation="eager").eval()


def log_probabilities(model, ids):
    all_logp = []
    for row in ids:
        z = torch.log_softmax(model(torch.tensor([row])).logits[0, :-1], -1)
        all_logp.append(z[range(len(row) - 1), row[1:]])
    return torch.cat(all_logp)


def saved_as(name, key):
    """As files of the field have it where transformers 5 writes another name."""
    if name == "gpt2":
        return key.removeprefix("transformer.")
    return "embed_out.weight" if name == "gpt_neox" and key == "lm_head.weight" else key


def make(name, case, to):
    to.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in {**SHAPE, **case}.items() if v is not ABSENT}
    for key in OTHER_NAMES.get(case["model_type"], []):
        config.pop(key, None)
    (to / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    torch.manual_seed(sum(map(ord, name)))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(to))
    config["architectures"] = [type(model).__name__]
    (to / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    ones = [k for k, p in model.named_parameters() if p.eq(1).all()]  # norms, unless they are stored less 1
    weights = {k: (k in ones) + 0.3 * torch.randn_like(p) for k, p in model.named_parameters()}
    weights = {saved_as(name, k): w.to(torch.bfloat16) for k, w in weights.items()}
    if name == "gpt2":  # buffers of old files
        weights |= {"h.0.attn.bias": torch.ones(1, 1, 40, 40), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    model = model_at(to)
    ids = [torch.randint(0, V, (n,)).tolist() for n in LENGTHS]
    logp = log_probabilities(model, ids)
    (-logp.mean()).backward()
    gradients = {k: p.grad.float() for k, p in model.named_parameters()}
    if "lm_head.weight" in gradients and case["model_type"] == "gpt_neox":
        gradients["embed_out.weight"] = gradients.pop("lm_head.weight")
    save_file(gradients, to / "gradients.safetensors")
    (to / "golden.json").write_text(json.dumps({"ids": ids, "logp": [round(x, 7) for x in logp.tolist()]}) + "\n")
    print(f"{name}: {type(model).__name__}, loss {-logp.mean().item():.6f}")


def check(name, copies, fixtures):
    golden = json.loads((fixtures / name / "golden.json").read_text())
    theirs = model_at(copies / name)
    worst = (log_probabilities(theirs, golden["ids"]) - torch.tensor(golden["logp"])).abs().max().item()
    scorer = model_at(copies / f"{name}-score", AutoModelForSequenceClassification)
    trunk = getattr(scorer, scorer.base_model_prefix)
    hidden = trunk(torch.tensor([golden["ids"][0]])).last_hidden_state[0]
    ours = torch.tensor(json.loads((copies / f"{name}-score" / "scores.json").read_text()), dtype=torch.float64)
    score = (scorer.score(hidden)[:, 0] - ours).abs().max().item()
    greedy = json.loads((copies / name / "greedy.json").read_text())
    row = greedy["ids"][:greedy["prompt"]]
    while len(row) < len(greedy["ids"]):
        row.append(theirs(torch.tensor([row])).logits[0, -1].argmax().item())
    ok = worst < 1e-4 and score < 1e-4 and row == greedy["ids"]
    print(f"{name}: {type(theirs).__name__} {worst:.1e}, {type(scorer).__name__} {score:.1e}, "
          f"greedy {'the same' if row == greedy['ids'] else 'DIFFERS'}{'' if ok else ' TOO LARGE'}")
    return ok


if sys.argv[1] == "--check":
    fixtures = pathlib.Path(__file__).parent.parent / "fixtures" / "families"
    results = [check(name, pathlib.Path(sys.argv[2]), fixtures) for name in CASES if (fixtures / name).is_dir()]
    sys.exit(not all(results))
for name, case in CASES.items():
    if len(sys.argv) < 3 or name in sys.argv[2:]:
        make(name, case, pathlib.Path(sys.argv[1]) / name)
