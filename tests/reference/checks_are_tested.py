"""checks_are_tested.py - does a test fail when a check of hostile input is left out? For every `if (...) return
..._fail(...)` of the files below the condition is made false, the file compiled, and its tests run against it; what
no test notices is printed. Takes minutes: python3 tests/reference/checks_are_tested.py [FILE.c ...]"""
import pathlib, re, subprocess, sys, tempfile

build = pathlib.Path("build")
files = {
    "core/model/safetensors.c": ["safetensors"], "core/model/gguf.c": ["gguf"], "core/model/hf.c": ["hf"],
    "core/model/hub.c": ["model_tool"], "core/base/json_check.c": ["json"], "core/base/json.c": ["json"],
    "core/base/stream.c": ["stream", "data_tools"], "core/run/checkpoint_read.c": ["run"],
    "datasets/tokenizer_json.c": ["tokenizer_parts", "tokenizer"], "datasets/pretokenize_read.c": ["tokenizer_parts"],
    "datasets/normalize.c": ["tokenizer_parts"], "datasets/decode_read.c": ["tokenizer_parts"],
    "datasets/regex_translate.c": ["tokenizer_parts"], "datasets/tokenizer_dir.c": ["tokenizer_parts", "tokenizer"],
    "datasets/tokenizer_gguf.c": ["gguf"], "datasets/dataset_shapes.c": ["dataset", "data_tools", "template"],
    "datasets/dataset.c": ["dataset", "data_tools"], "datasets/jinja_lexer.c": ["jinja"],
    "datasets/jinja_parser.c": ["jinja"], "datasets/template.c": ["template"], "policy/rows.c": ["tools"],
}
flags = "-std=c11 -D_GNU_SOURCE -O1 -w -ffp-contract=off -fno-math-errno -I.".split()
libs = ("-lcmocka -lcjson -lzstd -lz -lpcre2-8 -lutf8proc -lxxhash -lm -lpthread".split()
        + re.findall(r"-L\S+|-lcudart_static|-lstdc\+\+|-ldl|-lrt", subprocess.run(
            ["make", "-n", "-B", "build/rlhf", "EMULATE=0"], capture_output=True, text=True).stdout.splitlines()[-1]))

def conditions(text):
    """begin and end of the conditions in front of a refusal"""
    for m in re.finditer(r"\bif \(", text):
        at, depth = m.end(), 1
        while depth and at < len(text):
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
        if re.match(r"\s*\{?\s*return (\w+ == OK \? )?\w*(fail|bad|refuse|damaged|cut_short|wrong|unsupported)\w*\(", text[at:]):
            yield m.end(), at - 1

def notices(test, obj, folder):
    program = folder / "test"
    support = ["tests/gradient.c", "tests/guard.c", "tests/scratch.c"]
    subprocess.run(["cc", *flags, "-o", program, f"tests/test_{test}.c", *support, obj, build / "librlhf.a", *libs],
                   check=True, capture_output=True)
    try:
        return subprocess.run([program], capture_output=True, timeout=120).returncode != 0
    except subprocess.TimeoutExpired:
        return True

survivors = total = 0
with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for path in sys.argv[1:] or files:
        text = pathlib.Path(path).read_text()
        for begin, end in conditions(text):
            source, obj = folder / pathlib.Path(path).name, folder / "mutant.o"
            source.write_text(text[:begin] + "0 && (" + text[begin:end] + ")" + text[end:])
            subprocess.run(["cc", *flags, "-c", "-o", obj, source], check=True)
            total += 1
            if not any(notices(test, obj, folder) for test in files[path]):
                survivors += 1
                print(f"{path}:{text[:begin].count(chr(10)) + 1}: {' '.join(text[begin:end].split())}", flush=True)
print(f"{total} checks, {survivors} of which no test misses")
