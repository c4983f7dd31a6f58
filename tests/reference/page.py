"""page.py - what tests/page.sh asks a browser about the report and the live page of invented runs."""
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from browser import Browser  # noqa: E402

RLHF = os.path.abspath(sys.argv[1])
SHOTS = os.environ.get("SHOTS")
EVIL = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'><b>bold</b>"
WORK = tempfile.mkdtemp()
STEPS = 60


def row(step, seed):
    return {"step": step, "wall_time": 1.7e9 + 2 * step + seed, "tokens": 4000 * step, "samples": 64 * step,
            "objective/kl": 5 * (1 - math.exp(-step / 20)) + 0.3 * math.sin(step * 1.7 + seed),
            "objective/raw_scores": 2 + math.log1p(step) + 0.2 * math.cos(step * 2.3 + seed),
            "policy/clipfrac_avg": 0.02 + 0.01 * math.sin(step), "policy/entropy_avg": 1.2 - 0.005 * step,
            "critic/vf_explained_var": 1 - math.exp(-step / 10), "response_length/mean": 45 + step / 10 + seed,
            "timing_s/rollout": 0.4, "timing_s/judge": 0.1, "timing_s/improve": 0.8,
            "perf/tokens_per_second": 3900 + 10 * math.sin(step)}


def write_lines(path, rows):
    with open(path, "w") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)


def sample(step, k):
    text = EVIL if k == 1 else f"Answer {k} of step {step}. It takes only a minute."
    words = [w + " " for w in text.split(" ")]
    return {"step": step, "prompt": f"Question {k}: what ends the noise in the base of my kettle?", "prompt_id": k,
            "completion": text, "score": 4 + k / 10 + step / 50, "gold": 2 + step / 60, "kl": step / 20,
            "length": len(words), "stop": "eos" if k else "length", "mode": "sampled", "parts": {"fix": 1, "polite": 0.5},
            "tokens": {"text": words, "kl": [math.sin(i + k) * step / 20 for i in range(len(words))],
                       "value": [i / len(words) for i in range(len(words))],
                       "advantage": [math.cos(i) for i in range(len(words))], "logp": [-0.3 * i for i in range(len(words))]}}


def make_run(name, seed, clip):
    folder = os.path.join(WORK, name)
    os.makedirs(os.path.join(folder, "evals"))
    with open(os.path.join(folder, "recipe.json"), "w") as file:
        json.dump({"model": "sft/model", "run": {"seed": seed}, "ppo": {"clip": clip, "kl_coef": 0.05}}, file)
    with open(os.path.join(folder, "run.json"), "w") as file:
        json.dump({"verb": "ppo", "finished": True, "step": STEPS, "gold_before": 2.0, "gold_after": 3.0 + seed / 10}, file)
    write_lines(os.path.join(folder, "metrics.jsonl"), [row(s, seed) for s in range(1, STEPS + 1)])
    write_lines(os.path.join(folder, "samples.jsonl"), [sample(s, k) for s in (0, 30, 60) for k in range(4)])
    write_lines(os.path.join(folder, "alarms.jsonl"), [] if seed else [
        {"step": 33, "wall_time": 1.7e9, "id": "A1", "name": "kl-explosion", "severity": "warn", "metric": "objective/kl",
         "value": 4.4, "limit": 4, "cause": "KL is above three times its target.", "setting": "ppo.kl_coef"}])
    bins = [{"confidence": 0.5 + 0.05 * i, "accuracy": 0.48 + 0.052 * i, "n": 50 * i + 10} for i in range(10)]
    edges = [i / 2 - 4 for i in range(17)]
    evals = {"reward.json": {"kind": "reward", "model": "rm/model", "data": "pairs.eval.jsonl", "n": 1000, "accuracy": 0.76,
                             "longer_wins": 0.53, "ties": 0, "ece": 0.031, "margin_mean": 1.2,
                             "subsets": [{"subset": "edit:order", "n": 90, "accuracy": 0.31}, {"subset": "draft", "n": 700, "accuracy": 0.8}],
                             "reliability": bins, "length_bins": [{"from": -40 + 20 * i, "to": -20 + 20 * i, "n": 100, "accuracy": 0.55 + 0.1 * i} for i in range(4)],
                             "chosen": {"edges": edges, "counts": [round(90 * math.exp(-(e - 1.5) ** 2 / 4)) for e in edges[:-1]]},
                             "rejected": {"edges": edges, "counts": [round(80 * math.exp(-(e + 0.5) ** 2 / 4)) for e in edges[:-1]]}},
             "policy.json": {"kind": "policy", "win_rate": 0.8, "win_rate_low": 0.74, "win_rate_high": 0.86, "gold": 3.3},
             "sweep.json": {"kind": "sweep", "points": [{"step": 10 * i, "kl": 2.0 * i, "score": 4 + 0.5 * i, "gold": 2 + 0.6 * i - 0.07 * i * i} for i in range(8)],
                            "best_of": [{"n": n, "kl": math.log(n) - (n - 1) / n, "score": 4 + math.log(n) / 2, "gold": 2 + math.log(n) / 3} for n in (1, 2, 4, 8, 16)]}}
    for file_name, content in evals.items() if not seed else []:
        with open(os.path.join(folder, "evals", file_name), "w") as file:
            json.dump(content, file)
    return folder


def check(condition, what):
    if not condition:
        raise AssertionError(what)
    print("  " + what)


def chart(browser, metric):
    return f"rlhf.charts.find(c => c.curve.series.includes('{metric}'))"


def near(a, b):
    return abs(a - b) <= 1e-5 * max(1, abs(b))


def shoot(browser, name):
    if SHOTS:
        os.makedirs(SHOTS, exist_ok=True)
        time.sleep(0.4)
        browser.screenshot(os.path.join(SHOTS, name + ".png"))


def report(one, two):
    out = os.path.join(WORK, "out.html")
    subprocess.run([RLHF, "report", one, two, "--out", out], check=True, stdout=subprocess.DEVNULL)
    b = Browser()
    b.open("file://" + out)
    b.eval("goTo('runs-ppo')")
    b.wait("rlhf.charts.some(c => c.graph)")
    kl = chart(b, "objective/kl")
    # the curves as logged are the log; smoothing off, the drawn points are, too
    b.eval("(() => { const s = document.getElementById('smoothing'); s.value = 0; s.dispatchEvent(new Event('input')); "
           "s.dispatchEvent(new Event('change')); })()")
    b.wait(f"{kl} && {kl}.graph")
    drawn = b.eval(f"{kl}.table")
    check(len(drawn) == STEPS and all(near(p[1], row(p[0], 0)["objective/kl"]) and near(p[2], row(p[0], 1)["objective/kl"])
                                      for p in drawn), "two runs lie over each other, every point as in metrics.jsonl")
    check(b.eval(f"{kl}.graph.numRows()") == STEPS and b.eval(f"[...{kl}.box.querySelectorAll('canvas')].length") >= 2
          and b.eval(f"(() => {{ const c = {kl}.box.querySelector('canvas'); const d = c.getContext('2d').getImageData(0,0,c.width,c.height).data; "
                     "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })()") > 500, "the canvas has ink")
    legend = b.eval(f"{kl}.legend.textContent")
    check("a " in legend and "b " in legend, f"the legend names both runs: {legend}")
    b.eval(f"{kl}.box.focus()")
    for key in ("Home", "ArrowRight"):
        b.eval(f"{kl}.box.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))")
    check("step 2" in b.eval(f"{kl}.legend.textContent"), "arrow keys read values")
    check(b.eval(f"{kl}.figure.querySelector('.badge.warn').textContent").startswith("A1 kl-explosion")
          and "above three times" in b.eval("document.querySelector('.alarms').textContent"), "the alarm is shown")
    for name in ("frontier", "reliability", "histograms"):
        check(b.eval(f"document.querySelectorAll('[data-picture={name}] svg').length") >= 1, f"picture: {name}")
    check(b.eval("document.querySelectorAll('[data-picture=\"Accuracy by subset\"] [role=row]').length") == 2, "picture: subsets")
    shoot(b, "two-runs")
    for y in (700, 1500):
        b.eval(f"window.scrollTo(0, {y})")
        shoot(b, f"two-runs-{y}")
    b.eval("goTo('samples')")
    b.wait("document.querySelectorAll('.prompts button').length === 4")
    b.eval("document.querySelectorAll('.prompts button')[1].click()")
    check(b.eval("[...document.querySelectorAll('.answer .text')].every(p => p.textContent.includes('<script>'))")
          and b.eval("document.querySelectorAll('.answer b, .answer img, .answer script').length") == 0
          and b.eval("window.hacked === undefined"), "a script in a completion is text")
    check(b.eval("[...document.querySelectorAll('.token')].some(t => t.style.backgroundColor.startsWith('rgba'))"), "tokens are coloured")
    shoot(b, "samples")
    b.eval("goTo('recipes')")
    check(b.eval("[...document.querySelectorAll('.differs th')].map(t => t.textContent).sort().join()") == "ppo.clip,run.seed",
          "the recipes differ where they differ")
    shoot(b, "recipes")
    check(b.eval("document.querySelectorAll('[role=tab]').length") == b.eval("document.querySelectorAll('[role=tab][aria-controls]').length")
          and b.eval("document.querySelector('[role=tab][aria-selected=true]').tabIndex") == 0, "tabs say what they are")
    b.eval("document.querySelector('.skip').click()")
    b.wait("location.hash === '#panels' && document.activeElement.id === 'panels'")
    check(b.eval("rlhf.tab") == "recipes", "skipping to the curves stays on the tab")
    check(b.problems() == [], f"nothing was refused or thrown {b.problems()[:2]}")
    check([r for r in b.requests() if not r.startswith("file://" + out)] == [], "no request leaves the page")
    b.close()
    for name, width, height, dark in (("phone", 390, 800, False), ("dark", 1280, 900, True)):
        b = Browser(width, height, 2 if width < 700 else 1, dark)
        b.open("file://" + out)
        for tab in ("overview", "runs-ppo", "samples"):
            b.eval(f"goTo('{tab}')")
            check(b.eval("document.documentElement.scrollWidth") <= width, f"{name}, {tab}: nothing sticks out sideways")
            shoot(b, f"{name}-{tab}")
        b.close()


def live(one):
    server = subprocess.Popen([RLHF, "monitor", one, "--port", "0"], stdout=subprocess.PIPE, text=True)
    address = server.stdout.readline().strip()
    b = Browser()
    try:
        b.open(address)
        b.wait("rlhf.runs.length === 1")
        b.eval("goTo('runs-ppo')")
        b.wait(f"{chart(b, 'objective/kl')} && {chart(b, 'objective/kl')}.graph")
        for step in range(STEPS + 1, STEPS + 4):
            with open(os.path.join(one, "metrics.jsonl"), "a") as file:
                file.write(json.dumps(row(step, 0)) + "\n")
            began = time.time()
            seen = b.wait(f"{chart(b, 'objective/kl')}.table.some(p => p[0] === {step})", 10) - began
            check(seen < 2, f"step {step} is on the page after {seen:.2f} s")
        write_lines(os.path.join(one, "metrics.jsonl"), [row(s, 0) for s in range(1, 31)])
        b.wait("rlhf.runs[0].n === 30", 10)
        check(True, "a log cut back by a resume is shown as it is")
        shoot(b, "live")
        check(b.problems() == [], f"nothing was refused or thrown {b.problems()[:2]}")
        check([r for r in b.requests() if not r.startswith(address)] == [], "no request leaves the server")
    finally:
        b.close()
        server.send_signal(signal.SIGTERM)
        server.wait(20)


try:
    one, two = make_run("a", 0, 0.2), make_run("b", 1, 0.3)
    report(one, two)
    live(one)
    print("page.sh: passed")
finally:
    shutil.rmtree(WORK, ignore_errors=True)
