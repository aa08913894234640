#!/usr/bin/env python3
"""Times one step of a T5 decoder beside PyTorch and CTranslate2: the same checkpoint, text,
cores and threads, run by run in turn.

    build/release/moefy random --shape t5-large -o /tmp/t5-large
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r tests/bench/peers.txt
    /tmp/peers/bin/python tests/bench/peers_t5.py --model /tmp/t5-large

A run is 16 greedy tokens after the first, one sequence with its cache; the time is of one.
PyTorch is asked step by step, CTranslate2 for 17 tokens and for 1, whose difference counts.
moefy's sparse rows select experts at random where the model has no routers. Prints medians
and least times, each also as a share of moefy dense.
"""
import argparse, os, statistics, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from peers import Moefy, versions

TOKENS = 17
TEXT = "sst2 sentence: it 's a charming and often affecting journey ."


def torch_steps(folder, ids, dtype):
    import torch, transformers
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()

    def run():
        with torch.inference_mode():
            encoded = model.encoder(input_ids=torch.tensor([ids]))
            token, cache = torch.tensor([[0]]), None
            for i in range(TOKENS):
                if i == 1:
                    start = time.perf_counter()
                out = model(decoder_input_ids=token, encoder_outputs=encoded,
                            past_key_values=cache, use_cache=True)
                cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
            return 1e3 * (time.perf_counter() - start) / (TOKENS - 1)
    return run


def ct2_steps(folder, tokens, out, kind, threads):
    import ctranslate2
    from ctranslate2.converters import TransformersConverter
    if not os.path.exists(out):
        TransformersConverter(folder, low_cpu_mem_usage=True).convert(out)
    model = ctranslate2.Translator(out, device="cpu", compute_type=kind, intra_threads=threads)

    def once(n):
        start = time.perf_counter()
        model.translate_batch([tokens], beam_size=1, min_decoding_length=n, max_decoding_length=n)
        return time.perf_counter() - start
    return lambda: 1e3 * (once(TOKENS) - once(1)) / (TOKENS - 1)


def load(a):
    """name -> a function of nothing that gives the milliseconds of a step."""
    import torch, transformers
    torch.set_num_threads(a.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(a.model)
    ids = tokenizer(TEXT)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    makers = {
        "torch-f32": lambda: torch_steps(a.model, ids, torch.float32),
        "torch-bf16": lambda: torch_steps(a.model, ids, torch.bfloat16),
        "ct2-f32": lambda: ct2_steps(a.model, tokens, a.ct2, "float32", a.threads),
        "ct2-int8": lambda: ct2_steps(a.model, tokens, a.ct2, "int8", a.threads),
    }
    out = {n: makers[n]() for n in a.peers.split(",") if n}
    for m in [a.model] + [m for m in a.moefied.split(",") if m]:
        moefy = Moefy([a.moefy, "bench", m, "--layer", "step", "--threads", str(a.threads),
                       "--ratio", a.ratios], [ids])
        name = "moefy" if m == a.model else os.path.basename(os.path.normpath(m))
        for i, ratio in enumerate(a.ratios.split(",")):
            out[f"{name}-{ratio}"] = lambda moefy=moefy, i=i: moefy.run_ms(i)
    return out


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="a Hugging Face T5 checkpoint")
    p.add_argument("--moefied", default="", help="DIR,...: conversions of it, to time besides")
    p.add_argument("--peers", default="torch-f32,torch-bf16,ct2-f32,ct2-int8")
    p.add_argument("--ratios", default="1,0.25,0.125")
    p.add_argument("--runs", type=int, default=9)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--pause", type=float, default=0.02, help="seconds between two runs")
    p.add_argument("--moefy", default="build/release/moefy")
    p.add_argument("--ct2", default=os.path.join(tempfile.gettempdir(), "moefied-peers-t5-ct2"))
    return p.parse_args()


def main():
    a = parse()
    peers = load(a)
    times = {n: [] for n in peers}
    for i in range(a.runs + 1):
        for name, run in peers.items():
            time.sleep(a.pause)
            ms = run()
            if i:  # the first warms up
                times[name].append(ms)
    print(" ".join(f"{n} {v}" for n, v in versions().items()))
    dense = f"moefy-{a.ratios.split(',')[0]}"
    print(f"{'':16} {'median ms':>10} {'/ dense':>8} {'least':>8} {'/ dense':>8}")
    for n, t in times.items():
        shares = [f(t) / f(times[dense]) for f in (statistics.median, min)]
        print(f"{n:16} {statistics.median(t):10.2f} {shares[0]:8.2f} {min(t):8.2f} {shares[1]:8.2f}")


if __name__ == "__main__":
    main()
