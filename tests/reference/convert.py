"""convert.py DIR ANSWERS.jsonl - does transformers, with the model in DIR, greedily answer what the rows say?"""
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
wrong = rows = 0
for line in open(sys.argv[2]):
    row = json.loads(line)
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False)
    theirs = out[0, ids.shape[1]:].tolist()
    rows += 1
    if theirs != row["completion_ids"]:
        wrong += 1
        print("they:", tokenizer.decode(theirs), "\nwe:  ", row["completion"])
print(f"{sys.argv[1].rsplit('/', 1)[-1]}: {rows - wrong} of {rows} answers are the same")
sys.exit(wrong > 0)
