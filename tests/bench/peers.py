#!/usr/bin/env python3
"""Times moefy beside what people use today: the same network, cores, threads and token
ids, run by run in turn, so that whatever else the machine does meets all alike.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r tests/bench/peers.txt
    /tmp/peers/bin/python tests/bench/peers.py --shape t5-large-enc4 --cases 1x128,8x128
    /tmp/peers/bin/python tests/bench/peers.py --model models/minilm-sst2-relu \\
        --moefied f32=DIR,int8=DIR --cases 1x16,1x128,real32

--model: a Hugging Face BERT checkpoint; its weights go to every peer. --shape: a
checkpoint of random weights is made for the peers; moefy's random weights of the same
shape differ, which costs or saves no time. --moefied names the converted models that run
our sparse and lower-precision rows. A case BxS is B sequences of S tokens, realN the first
N sentences of --data at their own lengths: padded to the longest for peers that need it.
Prints a table of medians, each also as a share of a reference's (--against).
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

SHAPES = {  # layers, width, FFN, heads, activation
    "t5-large-enc4": (4, 1024, 4096, 16, "relu"),
    "bert-base": (12, 768, 3072, 12, "gelu"),
    "minilm": (6, 384, 1536, 12, "relu"),
}
PEERS = ["ort-f32", "ort-int8", "openvino-f32", "openvino-bf16", "ct2-f32", "ct2-int8", "torch-f32",
         "torch-bf16"]
VOCABULARY = 1000


def make_checkpoint(shape, folder):
    """A BERT classifier of random weights; where it is already there, nothing."""
    import torch, transformers
    layers, d, d_ff, heads, act = SHAPES[shape]
    if not os.path.exists(os.path.join(folder, "model.safetensors")):
        torch.manual_seed(1)
        config = transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=d_ff, hidden_act=act, max_position_embeddings=512, num_labels=2)
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words += [f"w{i}" for i in range(VOCABULARY - len(words))]
        with open(os.path.join(folder, "vocab.txt"), "w") as f:
            f.write("\n".join(words) + "\n")
        transformers.BertTokenizerFast(os.path.join(folder, "vocab.txt")).save_pretrained(folder)
    return folder


class Batch:
    """Ragged ids, and the same padded."""
    def __init__(self, sequences):
        import numpy as np
        self.sequences = sequences
        self.longest = max(map(len, sequences))
        self.padded = len(set(map(len, sequences))) > 1
        self.ids = np.zeros((len(sequences), self.longest), np.int64)
        self.mask = np.zeros_like(self.ids)
        for i, s in enumerate(sequences):
            self.ids[i, :len(s)] = s
            self.mask[i, :len(s)] = 1
        self.types = np.zeros_like(self.ids)


def make_batches(cases, folder, data):
    import random, transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with open(data) as f:
        rows = [line.split("\t")[0] for line in f.read().splitlines()[1:]]
    text = [tokenizer(r)["input_ids"] for r in rows]
    inside = [t for s in text for t in s[1:-1]]
    if tokenizer.vocab_size <= VOCABULARY:  # a made-up checkpoint knows no words
        rng = random.Random(1)
        inside = [rng.randrange(5, tokenizer.vocab_size) for _ in inside]
    batches = {}
    for case in cases:
        if case.startswith("real"):
            batches[case] = Batch(text[:int(case[4:])])
            continue
        b, s = map(int, case.split("x"))
        rows, at = [], 0
        for _ in range(b):
            rows.append([text[0][0]] * min(s, 1) + inside[at:at + s - 2] + [text[0][-1]] * (s > 1))
            at = (at + s) % (len(inside) - s)
        batches[case] = Batch(rows)
    return batches


# ---- the peers: each a function of a batch -------------------------------------------

def load_torch(folder, dtype):
    import torch, transformers
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="sdpa").to(dtype).eval()

    def run(b):
        with torch.inference_mode():
            mask = torch.from_numpy(b.mask) if b.padded else None
            return model(torch.from_numpy(b.ids), attention_mask=mask,
                         token_type_ids=torch.from_numpy(b.types)).logits.float().numpy()
    return run


def export_onnx(folder, out):
    """What optimum's exporter does: the traced graph, fused by ONNX Runtime's own tool."""
    import onnx, torch, transformers
    from onnxruntime.transformers import optimizer
    from onnxruntime.quantization import QuantType, quantize_dynamic
    paths = [os.path.join(out, n) for n in ("model.onnx", "fused.onnx", "int8.onnx")]
    if os.path.exists(paths[2]):
        return paths
    os.makedirs(out, exist_ok=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager").eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    ones = torch.ones((2, 8), dtype=torch.int64)
    torch.onnx.export(model, (ones, ones, ones * 0), paths[0], input_names=names,
                      output_names=["logits"], opset_version=17, dynamo=False,
                      dynamic_axes={n: {0: "batch", 1: "sequence"} for n in names})
    config = model.config
    fused = optimizer.optimize_model(paths[0], model_type="bert", num_heads=config.num_attention_heads,
                                     hidden_size=config.hidden_size, opt_level=1)
    print("fused:", {k: v for k, v in fused.get_fused_operator_statistics().items() if v},
          file=sys.stderr)
    fused.save_model_to_file(paths[1])
    quantize_dynamic(paths[1], paths[2], weight_type=QuantType.QInt8, per_channel=True,
                     extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})
    return paths


def load_ort(path, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda b: session.run(None, {"input_ids": b.ids, "attention_mask": b.mask,
                                        "token_type_ids": b.types})[0]


def load_openvino(path, threads, precision):
    import openvino
    compiled = openvino.Core().compile_model(path, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY"})
    return lambda b: compiled({"input_ids": b.ids, "attention_mask": b.mask,
                               "token_type_ids": b.types})[0]


def load_ct2(folder, out, threads, compute_type):
    """The encoder alone: CTranslate2 has no classification head."""
    import ctranslate2
    import numpy as np
    from ctranslate2.converters import TransformersConverter
    if not os.path.exists(out):
        TransformersConverter(folder).convert(out)
    encoder = ctranslate2.Encoder(out, device="cpu", compute_type=compute_type, intra_threads=threads)

    def run(b):
        lengths = ctranslate2.StorageView.from_array(b.mask.sum(1).astype(np.int32))
        ids = ctranslate2.StorageView.from_array(b.ids.astype(np.int32))
        encoder.forward_batch(ids, lengths=lengths)
    return run


class Moefy:
    """moefy bench --drive: a process idle but for the runs asked for, by the index of its case."""
    def __init__(self, arguments, tokens=None):
        self.file = None
        if tokens:
            self.file = tempfile.NamedTemporaryFile("w", suffix=".ids")
            self.file.write("".join(" ".join(map(str, s)) + "\n" for s in tokens))
            self.file.flush()
            arguments = arguments + ["--tokens", self.file.name]
        self.process = subprocess.Popen(arguments + ["--drive"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            sys.exit("peers: " + " ".join(arguments) + " did not start")

    def run_ms(self, index=0):
        self.process.stdin.write(f"{index}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def load_peers(a, folder, cache):
    import torch
    torch.set_num_threads(a.threads)
    onnx = export_onnx(folder, os.path.join(cache, "onnx"))
    loaders = {
        "ort-f32": lambda: load_ort(onnx[1], a.threads),
        "ort-int8": lambda: load_ort(onnx[2], a.threads),
        "openvino-f32": lambda: load_openvino(onnx[0], a.threads, "f32"),
        "openvino-bf16": lambda: load_openvino(onnx[0], a.threads, "bf16"),
        "ct2-f32": lambda: load_ct2(folder, os.path.join(cache, "ct2"), a.threads, "float32"),
        "ct2-int8": lambda: load_ct2(folder, os.path.join(cache, "ct2"), a.threads, "int8"),
        "torch-f32": lambda: load_torch(folder, torch.float32),
        "torch-bf16": lambda: load_torch(folder, torch.bfloat16),
    }
    peers = {}
    for name in a.peers.split(",") if a.peers else []:
        try:
            peers[name] = loaders[name]()
        except Exception as problem:  # one that does not run here is named and left out
            print(f"peers: {name} left out: {problem}", file=sys.stderr)
    return peers


def ours(a, case, batch):
    """name -> Moefy of one case."""
    out = {}
    base = [a.moefy, "bench", "--threads", str(a.threads)]
    moefied = dict(m.split("=", 1) for m in a.moefied.split(",") if m)
    for dtype in a.dtypes.split(","):
        for ratio in a.ratios.split(","):
            name = f"moefy-{dtype}-{ratio}"
            common = base + ["--ratio", ratio]
            if a.shape and not case.startswith("real"):
                b, s = case.split("x")
                out[name] = Moefy(common + ["--shape", a.shape, "--dtype", dtype, "--batch", b,
                                            "--seq", s])
            elif dtype in moefied:
                out[name] = Moefy(common + [moefied[dtype]], batch.sequences)
            elif dtype == "f32" and a.model and float(ratio) == 1:
                out[name] = Moefy(common + [a.model], batch.sequences)
    return out


def measure(a, case, batch, peers):
    """name -> the times of all runs in ms, in turn."""
    mine = ours(a, case, batch)
    times = {n: [] for n in list(peers) + list(mine)}
    for run in peers.values():  # warm-up
        for _ in range(2):
            run(batch)
    for _ in range(a.runs):
        for name, run in peers.items():
            time.sleep(a.pause)  # so that the one before is done with the cores
            start = time.perf_counter()
            run(batch)
            times[name].append(1e3 * (time.perf_counter() - start))
        for name, m in mine.items():
            time.sleep(a.pause)
            times[name].append(m.run_ms())
    for m in mine.values():
        m.close()
    return times


def check_answers(folder, moefy, batch, peers):
    """The peers' logits of the case agree with each other; prints the largest gap."""
    import numpy as np
    logits = {n: np.asarray(run(batch)) for n, run in peers.items() if not n.startswith("ct2")}
    if "ort-f32" in logits:
        for name, l in logits.items():
            gap = float(np.abs(l - logits["ort-f32"]).max())
            print(f"peers: logits of {name} within {gap:.2g} of ort-f32's", file=sys.stderr)


def versions():
    import importlib.metadata as m
    return {n: m.version(n) for n in ("onnxruntime", "openvino", "ctranslate2", "torch", "transformers")}


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=SHAPES)
    p.add_argument("--model", help="a Hugging Face BERT checkpoint")
    p.add_argument("--moefied", default="", help="dtype=DIR,...: converted models")
    p.add_argument("--cases", default="1x16,1x128")
    p.add_argument("--dtypes", default="f32")
    p.add_argument("--ratios", default="1,0.25")
    p.add_argument("--peers", default=",".join(PEERS))
    p.add_argument("--against", default="ort-f32,ort-int8")
    p.add_argument("--runs", type=int, default=9)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--pause", type=float, default=0.1,
                   help="seconds between two runs, in which nothing is to run")
    p.add_argument("--data", default="tests/data/sst2_dev.tsv")
    p.add_argument("--moefy", default="build/release/moefy")
    p.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "moefied-peers"))
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    if bool(a.shape) == bool(a.model):
        p.error("needs either --shape or --model")
    return a


def main():
    a = parse()
    cache = os.path.join(a.cache, a.shape or os.path.basename(os.path.normpath(a.model)))
    folder = a.model or make_checkpoint(a.shape, os.path.join(cache, "checkpoint"))
    batches = make_batches(a.cases.split(","), folder, a.data)
    peers = load_peers(a, folder, cache)
    results = {}
    for case, batch in batches.items():
        check_answers(folder, a.moefy, batch, peers)
        times = measure(a, case, batch, peers)
        results[case] = {n: statistics.median(t) for n, t in times.items()}
    if a.json:
        print(json.dumps({"versions": versions(), "threads": a.threads, "runs": a.runs, "ms": results}))
        return
    print(" ".join(f"{n} {v}" for n, v in versions().items()))
    against = [r for r in a.against.split(",") if r in peers]
    print(f"{'case':8} {'who':18} {'median ms':>10}" + "".join(f"  / {r:>8}" for r in against))
    for case, medians in results.items():
        for name, ms in medians.items():
            shares = "".join(f"  {ms / medians[r]:10.2f}" for r in against)
            print(f"{case:8} {name:18} {ms:10.2f}{shares}")


if __name__ == "__main__":
    main()
