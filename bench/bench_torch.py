"""bench_torch.py - the same work as bench_gpu in PyTorch, eager and compiled: products, attention, the head, AdamW,
training, decoding, DPO and one PPO step of the 1 B llama shape. Lines of JSON, as bench_gpu's; `kernels` says which way.

python3 bench/bench_torch.py [--device cuda:0] [--small] [--only NAME] [--json FILE]
--small shrinks every shape, to try the program itself anywhere (--device cpu)."""
import argparse
import json
import time

import torch
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda:0")
parser.add_argument("--only", default="")
parser.add_argument("--json", default="")
parser.add_argument("--small", action="store_true")
arguments = parser.parse_args()
device, small = torch.device(arguments.device), arguments.small
bf16 = torch.bfloat16
torch.manual_seed(1)
# packed tokens, sequence length, vocabulary, channels, heads, key/value heads, feed-forward, layers, head's rows
N, T, V, C, NH, NKV, FF, L, R = (256, 64, 512, 64, 4, 2, 96, 2, 64) if small else (16384, 2048, 128256, 2048, 32, 8, 8192, 16, 4096)
HS = C // NH
out = open(arguments.json, "a") if arguments.json else None


def sync():
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(call):
    """Of one call: enough calls for a tenth of a second, the median of five."""
    call()
    call()
    sync()
    began = time.perf_counter()
    call()
    sync()
    repeats = max(1, int(0.1 / (time.perf_counter() - began)))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        sync()
        times.append((time.perf_counter() - began) / repeats)
    return sorted(times)[2]


def row(bench, shape, batch, value, unit, kernels):
    print(f"{bench:16} {shape:14} bf16 {batch:8} {value:12.4g} {unit:8} {kernels}", flush=True)
    if out:
        print(json.dumps({"bench": bench, "shape": shape, "dtype": "bf16", "device": arguments.device, "kernels": kernels,
                          "batch": batch, "value": value, "unit": unit, "limit": None, "peer": None}), file=out, flush=True)


def wanted(name):
    return not arguments.only or name.startswith(arguments.only)


def normal(*shape, dtype=bf16):
    return torch.randn(*shape, device=device, dtype=dtype)


def products():
    for name, O, K in (("1b qkv", (NH + 2 * NKV) * HS, C), ("1b o", C, C), ("1b gate+up", 2 * FF, C), ("1b down", C, FF)):
        x, w, dy = normal(N, K), normal(O, K), normal(N, O)
        flops = 2 * N * O * K
        row("matmul", name, N, flops / seconds(lambda: x @ w.T) / 1e12, "TFLOP/s", "torch")
        row("matmul_dx", name, N, flops / seconds(lambda: dy @ w) / 1e12, "TFLOP/s", "torch")
        row("matmul_dw", name, N, flops / seconds(lambda: dy.T @ x) / 1e12, "TFLOP/s", "torch")


def attention(hs):
    heads, S = C // hs, N // T
    groups = max(1, heads // 4) if heads >= 4 else heads
    q = normal(S, heads, T, hs).requires_grad_()
    k, v = (normal(S, groups, T, hs).requires_grad_() for _ in range(2))
    flops = 2 * T * T * S * heads * hs
    shape = f"HS {hs}, T {T}"

    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    with torch.no_grad():
        alone = seconds(forward)
    g = normal(S, heads, T, hs)
    both = seconds(lambda: forward().backward(g))
    row("attention", shape, N, flops / alone / 1e12, "TFLOP/s", "torch sdpa")
    row("attention_bwd", shape, N, 2.5 * flops / max(both - alone, 1e-9) / 1e12, "TFLOP/s", "torch sdpa")


def head():
    h, w, y = normal(R, C), normal(V, C), torch.randint(V, (R,), device=device)
    flops = 2 * R * V * C

    def logp(chunk=512):
        parts = []
        for i in range(0, R, chunk):
            z = (h[i:i + chunk] @ w.T).float()
            lse = torch.logsumexp(z, -1)
            p = torch.exp(z - lse[:, None])
            parts.append((z.gather(1, y[i:i + chunk, None])[:, 0] - lse, lse - (p * z).sum(-1)))
        return parts

    with torch.no_grad():
        row("head", "V x C of 1b", R, flops / seconds(logp) / 1e12, "TFLOP/s", "torch, chunks")


def adamw():
    n = 1 << (16 if small else 28)
    w = torch.nn.Parameter(normal(n, dtype=torch.float32))
    w.grad = normal(n, dtype=torch.float32)
    optimizer = torch.optim.AdamW([w], lr=1e-6, fused=True)
    row("adamw", "1b", N, 28 * n / seconds(optimizer.step) / 1e9, "GB/s", "torch fused")


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.n1, self.n2 = torch.nn.RMSNorm(C, 1e-5), torch.nn.RMSNorm(C, 1e-5)
        self.qkv, self.o = linear(C, (NH + 2 * NKV) * HS), linear(C, C)
        self.gate_up, self.down = linear(C, 2 * FF), linear(FF, C)

    def forward(self, x, cos, sin, cache=None, at=None):
        B, t, _ = x.shape
        q, k, v = self.qkv(self.n1(x)).view(B, t, NH + 2 * NKV, HS).transpose(1, 2).split([NH, NKV, NKV], 1)
        turn = lambda a: a * cos + torch.cat((-a[..., HS // 2:], a[..., :HS // 2]), -1) * sin
        q, k = turn(q), turn(k)
        if cache is not None:
            cache[0][:, :, at:at + t], cache[1][:, :, at:at + t] = k, v
            k, v = cache[0][:, :, :at + t], cache[1][:, :, :at + t]
        a = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(B, t, C))
        gate, up = self.gate_up(self.n2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.n = torch.nn.Embedding(V, C), torch.nn.RMSNorm(C, 1e-5)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(L))
        for p in self.parameters():
            if p.dim() == 2:
                torch.nn.init.normal_(p, std=.02)
        angle = torch.arange(4096)[:, None] / 5e5 ** (torch.arange(0, HS, 2) / HS)
        self.register_buffer("cos", torch.cat((angle.cos(), angle.cos()), -1).to(bf16))
        self.register_buffer("sin", torch.cat((angle.sin(), angle.sin()), -1).to(bf16))

    def forward(self, ids, caches=None, at=0):
        x, t = self.e(ids), ids.shape[1]
        for i, block in enumerate(self.blocks):
            x = block(x, self.cos[at:at + t], self.sin[at:at + t], caches[i] if caches else None, at)
        return self.n(x)


def train():
    S, length = (2, 64) if small else (8, 2048)
    ids = torch.randint(V, (S, length), device=device)
    for way in ("eager", "compiled"):
        model = Llama().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def loss_of(batch):
            h = model(batch)
            return F.cross_entropy((h[:, :-1] @ model.e.weight.T).reshape(-1, V).float(), batch[:, 1:].reshape(-1))

        loss = torch.compile(loss_of) if way == "compiled" else loss_of

        def step():
            for i in range(0, S, 2):  # logits of two sequences at a time
                with torch.autocast(device.type, bf16):
                    part = loss(ids[i:i + 2]) * 2 / S
                part.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        row("train", "tiny" if small else "1b", S * length, S * length / seconds(step), "tok/s", f"torch {way}")
        del model, optimizer


def decode():
    prompt, steps = (16, 8) if small else (512, 128)
    model = Llama().to(device, bf16)
    for batch in (1,) if small else (1, 64, 256):
        caches = [[torch.zeros(batch, NKV, prompt + steps, HS, device=device, dtype=bf16) for _ in range(2)] for _ in range(L)]
        ids = torch.randint(V, (batch, 1), device=device)

        def generate():
            token = ids
            for at in range(prompt, prompt + steps):
                z = model(token, caches, at)[:, -1] @ model.e.weight.T
                token = torch.multinomial(torch.softmax(z.float(), -1), 1)

        with torch.no_grad():
            row("decode", "tiny" if small else "1b", batch, batch * steps / seconds(generate), "tok/s", "torch eager")


def token_logps(model, ids, first=0):
    """log p of ids[:, first + 1:] given what stands before each; bf16 products, f32 log-softmax."""
    with torch.autocast(device.type, bf16):
        z = model(ids)[:, first:-1] @ model.e.weight.T
    return torch.log_softmax(z.float(), -1).gather(-1, ids[:, first + 1:, None])[..., 0]


def dpo():
    pairs, length = (1, 64) if small else (4, 2048)
    policy, reference = Llama().to(device), Llama().to(device, bf16).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
    ids = torch.randint(V, (2 * pairs, length), device=device)

    def step():
        for i in range(0, 2 * pairs, 2):
            with torch.no_grad():
                ref = token_logps(reference, ids[i:i + 2], length // 4).sum(-1)
            d = token_logps(policy, ids[i:i + 2], length // 4).sum(-1) - ref
            (-F.logsigmoid(0.1 * (d[0] - d[1])) / pairs).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    row("dpo", "tiny" if small else "1b", 2 * pairs * length, 2 * pairs * length / seconds(step), "tok/s", "torch eager")


def ppo():
    """One PPO step as a plain loop writes it: generation with a KV cache, four models, four passes."""
    S, P, R, part = (4, 16, 16, 2) if small else (256, 256, 256, 8)
    actor, critic = Llama().to(device), Llama().to(device)
    reference, judge = (Llama().to(device, bf16).requires_grad_(False) for _ in range(2))
    head = torch.nn.Linear(C, 1, bias=False, device=device)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-6, fused=True) for m in (actor, critic)]
    prompts = torch.randint(V, (S, P), device=device)

    def values(model, ids):
        with torch.autocast(device.type, bf16):
            return head(model(ids)[:, P - 1:-1].float())[..., 0]

    def generate():
        ids = torch.cat((prompts, torch.zeros(S, R, dtype=torch.long, device=device)), 1)
        caches = [[torch.zeros(S, NKV, P + R, HS, device=device, dtype=bf16) for _ in range(2)] for _ in range(L)]
        with torch.autocast(device.type, bf16):
            h = actor(prompts, caches)
            for at in range(P, P + R):
                z = (h[:, -1] @ actor.e.weight.T).float() / 0.7
                ids[:, at] = torch.multinomial(torch.softmax(z, -1), 1)[:, 0]
                h = actor(ids[:, at:at + 1], caches, at)
        return ids

    def step():
        with torch.no_grad():
            ids = generate()
            parts = ids.split(part)
            old = [token_logps(actor, x, P - 1) for x in parts]
            ref = [token_logps(reference, x, P - 1) for x in parts]
            value = [values(critic, x) for x in parts]
            score = [values(judge, x)[:, -1] for x in parts]
            adv = [s[:, None] - 0.05 * (o - r) - v for s, o, r, v in zip(score, old, ref, value)]
        for _ in range(4):
            for x, o, a, v in zip(parts, old, adv, value):
                ratio = torch.exp(token_logps(actor, x, P - 1) - o)
                policy = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2)).mean()
                ((policy + 0.5 * (values(critic, x) - a - v).square().mean()) / len(parts)).backward()
            for model, optimizer in zip((actor, critic), optimizers):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)

    step()
    sync()
    began = time.perf_counter()
    step()
    sync()
    row("ppo_step", "tiny" if small else "1b", S, time.perf_counter() - began, "s", "torch eager")


if wanted("matmul"):
    products()
if wanted("attention"):
    attention(16 if small else 64)
    attention(32 if small else 128)
if wanted("head"):
    head()
if wanted("adamw"):
    adamw()
if wanted("train"):
    train()
if wanted("decode"):
    decode()
if wanted("dpo"):
    dpo()
if wanted("ppo"):
    ppo()
