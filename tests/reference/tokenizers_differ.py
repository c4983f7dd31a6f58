#!/usr/bin/env python3
"""Compares rlhf tokenize and detokenize with Hugging Face's tokenizers on random texts.

    pip install tokenizers
    RLHF=build/rlhf tests/reference/tokenizers_differ.py TOKENIZER.json ... [--rows 2000] [--seed 1]

Texts are pieces of a few scripts, of the vocabulary and of the added tokens. Besides every tokenizer
itself, variants of it are compared that exercise what other families use. Not needed by make test.
"""
import argparse, copy, json, os, random, subprocess, sys, tempfile
from tokenizers import Tokenizer

ALPHABET = (" \n\t\r.,!?'\"-_0123456789abcdefghijklmnopqrstuvwxyzABCXYZéüßÅ日本語かな한국ة١<>|▁"
            "\u00a0\u2003\u200d\u0301\u0327İſK🙂👩‍👩‍👧ﬁ²½Ⅷ\u180e\u2028")


def texts(spec, rows, r):
    vocab = list(spec["model"]["vocab"])
    added = [a["content"] for a in spec.get("added_tokens", [])] or [" "]
    kinds = [lambda: r.choice(added), lambda: r.choice(vocab), lambda: r.choice(vocab),
             lambda: r.choice([" ", "  ", "\n", "▁", "▁▁", "'s", "'LL", " the", "2024"]),
             lambda: "".join(r.choice(ALPHABET) for _ in range(r.randrange(1, 8)))]
    return ["".join(r.choice(kinds)() for _ in range(r.randrange(12))) for _ in range(rows)]


def variants(spec):
    """(name, tokenizer.json) of other shapes around the same vocabulary."""
    yield "itself", spec
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    pre = json.dumps(spec.get("pre_tokenizer"))
    def changed(**parts):
        return dict(copy.deepcopy(spec), **parts)
    if "ByteLevel" in pre:
        last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                "use_regex": False}
        for behavior in "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous":
            for invert in False, True:
                for regex in "\\s", "(?=[A-Z])", "a|(?=[0-9])", "[a-z]{1,3}":
                    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior,
                             "invert": invert}
                    yield f"{behavior} {invert} {regex}", changed(
                        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, last]})
        return
    for scheme in "always", "first", "never":
        for split in True, False:
            meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                    "split": split}
            yield f"Metaspace {scheme} {split}", changed(normalizer=None, pre_tokenizer=meta,
                                                         decoder=meta)
    yield "like gemma", changed(
        normalizer=space, pre_tokenizer={"type": "Split", "pattern": {"String": " "},
                                         "behavior": "MergedWithPrevious", "invert": False},
        decoder={"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]})
    for form in "NFC", "NFD", "NFKC", "NFKD", "Lowercase":
        yield form, changed(normalizer={"type": "Sequence", "normalizers": [{"type": form}, space]})
    for type_ in "Whitespace", "WhitespaceSplit":
        yield type_, changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": type_}, {"type": "Punctuation", "behavior": "Contiguous"},
            {"type": "Digits", "individual_digits": True}]})
    for fuse in True, False:
        model = dict(spec["model"], fuse_unk=fuse, byte_fallback=False)
        yield f"fuse_unk {fuse}", changed(model=model)


def run(verb, folder, rows, *flags):
    paths = [os.path.join(folder, name) for name in ("in.jsonl", "out.jsonl")]
    with open(paths[0], "w") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    subprocess.run([os.environ.get("RLHF", "build/rlhf"), verb, "--model", folder, "--tokenizer",
                    folder, "--data", paths[0], "--out", paths[1], *flags], check=True)
    return [json.loads(line) for line in open(paths[1])]


def compare(spec, rows, r):
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        json.dump(spec, open(path, "w"))
        theirs = Tokenizer.from_file(path)
        some = texts(spec, rows, r)
        for add in False, True:
            flags = ["--add-special"] if add else []
            ours = run("tokenize", folder, [{"text": t} for t in some], *flags)
            for t, row in zip(some, ours):
                want = theirs.encode(t, add_special_tokens=add).ids
                if row["ids"] != want:
                    wrong += 1
                    print(repr(t), "gives", row["ids"], "expected", want)
        ids = [theirs.encode(t).ids for t in some]
        for skip in False, True:
            flags = ["--skip-special"] if skip else []
            for row in run("detokenize", folder, [{"ids": i} for i in ids], *flags):
                want = theirs.decode(row["ids"], skip_special_tokens=skip)
                # bytes that are no character are shown in different ways
                if row["text"] != want and "\ufffd" not in row["text"] + want:
                    wrong += 1
                    print(row["ids"], "gives", repr(row["text"]), "expected", repr(want))
    return wrong


def main():
    p = argparse.ArgumentParser()
    p.add_argument("tokenizers", nargs="+")
    p.add_argument("--rows", type=int, default=500)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    wrong = 0
    for path in a.tokenizers:
        for name, spec in variants(json.load(open(path))):
            n = compare(spec, a.rows, random.Random(a.seed))
            print(f"{path}, {name}: {n} of {4 * a.rows} rows differ", flush=True)
            wrong += n
    sys.exit(wrong > 0)


main()
