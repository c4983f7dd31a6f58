"""tensorboard_read.py - reads a run's event files with TensorBoard's own reader and compares every scalar with
metrics.jsonl, and every distribution and text with its own form. Usage: tensorboard_read.py RUN_DIR [RUN_DIR ...]"""
import json
import math
import sys

try:
    from tensorboard.backend.event_processing import event_accumulator
except ImportError:
    print("tensorboard_read.py: skipped, Python has no tensorboard here")
    sys.exit(77)

for run in sys.argv[1:]:
    everything = {kind: 0 for kind in (event_accumulator.SCALARS, event_accumulator.TENSORS, event_accumulator.HISTOGRAMS)}
    events = event_accumulator.EventAccumulator(run, size_guidance=everything)
    events.Reload()
    tags = events.Tags()
    rows = [json.loads(line) for line in open(run + "/metrics.jsonl")]
    scalars = 0
    for tag in {key for row in rows for key in row} - {"step", "wall_time", "tokens", "samples"}:
        want = [(row["step"], row[tag]) for row in rows if row.get(tag) is not None]
        got = [(e.step, e.value) for e in events.Scalars(tag)] if want else []
        assert len(want) == len(got), f"{run}: {tag} has {len(got)} values and not {len(want)}"
        for (step, value), (step_read, value_read) in zip(want, got):
            assert step == step_read and math.isclose(value, value_read, rel_tol=1e-6, abs_tol=1e-37), f"{run}: {tag} at {step}"
        scalars += len(got)
    histograms = texts = 0
    for tag in tags["histograms"]:
        for e in events.Histograms(tag):
            h = e.histogram_value
            assert sum(h.bucket) == h.num > 0 and h.bucket_limit[-1] == h.max >= h.min, f"{run}: {tag} at {e.step}"
            assert len(h.bucket) == len(h.bucket_limit) and h.bucket_limit == sorted(h.bucket_limit)
            histograms += 1
    for tag in tags["tensors"]:
        for e in events.Tensors(tag):
            text = e.tensor_proto.string_val[0].decode()
            assert tag.startswith("samples/") and text.startswith("prompt\n\n    "), f"{run}: {tag} at {e.step}"
            texts += 1
    print(f"{run}: {scalars} scalars as in metrics.jsonl, {histograms} distributions ({', '.join(tags['histograms'])}), {texts} texts")
    assert scalars and histograms, f"{run}: nothing was read"
