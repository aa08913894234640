"""Real clients against a running moefied: huggingface_hub, tritonclient, requests.

    python test_clients.py URL

The server has a classifier named sst2, a question answering model named squad and a
text-to-text model named t5. Every
check prints a line; the first that fails ends the program with 1.
"""
import sys

import numpy as np
import requests
import tritonclient.http as triton
from huggingface_hub import InferenceClient

url = sys.argv[1]
TEXT = "a charming and often affecting journey"
QUESTION, CONTEXT = "Who wrote the letter?", "The letter, written by Ann Smith, was never sent."


def check(name, condition):
    print("ok  " if condition else "FAIL", name)
    if not condition:
        sys.exit(1)


def hub():
    classes = InferenceClient(model=f"{url}/models/sst2").text_classification(TEXT, top_k=1)
    check("huggingface_hub: text_classification", [c.label for c in classes] == ["positive"])
    both = InferenceClient(base_url=f"{url}/pipeline/text-classification/sst2").text_classification(
        TEXT, function_to_apply="none")
    check("huggingface_hub: logits", len(both) == 2 and both[0].score > 1 > both[1].score)
    answer = InferenceClient(model=f"{url}/models/squad").question_answering(QUESTION, CONTEXT)
    check("huggingface_hub: question_answering",
          (answer.answer, answer.start, answer.end) == ("Ann Smith", 23, 32))
    several = InferenceClient(model=f"{url}/models/squad").question_answering(
        QUESTION, CONTEXT, top_k=3)
    check("huggingface_hub: three answers", [a.answer for a in several][0] == "Ann Smith"
          and len(several) == 3)
    text = InferenceClient(model=f"{url}/models/t5").text_generation(
        f"sst2 sentence: {TEXT}", max_new_tokens=4)
    check("huggingface_hub: text_generation", text == "positive")


def text_input(name, texts, binary):
    tensor = triton.InferInput(name, [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([t.encode() for t in texts], dtype=np.object_),
                               binary_data=binary)
    return tensor


def infer(client, binary):
    outputs = [triton.InferRequestedOutput(n, binary_data=binary) for n in ("label", "logits")]
    result = client.infer("sst2", [text_input("text", [TEXT, "dull"], binary)], outputs=outputs,
                          request_id="seven", parameters={"ratio": 0.25})
    labels = [x.decode() if isinstance(x, bytes) else x for x in result.as_numpy("label")]
    logits = result.as_numpy("logits")
    check(f"tritonclient: infer, binary {binary}",
          labels == ["positive", "negative"] and logits.shape == (2, 2)
          and result.get_response()["id"] == "seven"
          and result.get_response()["parameters"]["ratio"] == 0.25)
    return logits


def oip():
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    check("tritonclient: live and ready", client.is_server_live() and client.is_server_ready()
          and client.is_model_ready("sst2") and client.is_model_ready("sst2", "1"))
    check("tritonclient: server metadata",
          "binary_tensor_data" in client.get_server_metadata()["extensions"])
    metadata = client.get_model_metadata("sst2")
    check("tritonclient: model metadata", metadata["inputs"][0]["datatype"] == "BYTES")
    json, binary = infer(client, False), infer(client, True)
    check("tritonclient: the same logits either way", np.allclose(json, binary, atol=1e-6))

    ids = np.array([[101, 2204, 102, 0]], dtype=np.int64)
    mask = np.array([[1, 1, 1, 0]], dtype=np.int64)
    tensors = [triton.InferInput("input_ids", ids.shape, "INT64"),
               triton.InferInput("attention_mask", mask.shape, "INT64")]
    tensors[0].set_data_from_numpy(ids)
    tensors[1].set_data_from_numpy(mask)
    by_ids = client.infer("sst2", tensors).as_numpy("logits")
    by_text = client.infer("sst2", [text_input("text", ["good"], True)]).as_numpy("logits")
    check("tritonclient: token ids", np.allclose(by_ids, by_text, atol=1e-6))

    answer = client.infer("squad", [text_input("question", [QUESTION], True),
                                    text_input("context", [CONTEXT], True)])
    check("tritonclient: a question", answer.as_numpy("answer")[0] == b"Ann Smith"
          and answer.as_numpy("start")[0] == 23)
    stats = client.get_inference_statistics("sst2")["model_stats"][0]
    check("tritonclient: statistics", stats["inference_stats"]["success"]["count"] >= 4)
    try:
        client.infer("none", [text_input("text", ["x"], True)])
        check("tritonclient: an unknown model is refused", False)
    except triton.InferenceServerException as e:
        check("tritonclient: an unknown model is refused", "no model" in e.message())


def rest():
    predict = requests.post(f"{url}/predict", json={"inputs": [[TEXT], ["dull", "film"]]})
    check("requests: TEI predict", [r[0]["label"] for r in predict.json()][0] == "positive"
          and int(predict.headers["x-compute-tokens"]) > 0)
    ranked = requests.post(f"{url}/rerank", json={"query": "good", "texts": ["bad", "good"]},
                           headers={"X-Moe-Model": "sst2", "X-Moe-Ratio": "0.5"})
    check("requests: TEI rerank", ranked.json()[0]["index"] == 1
          and float(ranked.headers["X-Moe-Ratio"]) > 0)
    vllm = requests.post(f"{url}/classify", json={"model": "sst2", "input": [TEXT]})
    check("requests: vLLM classify", vllm.json()["data"][0]["label"] == "positive")
    text = requests.post(f"{url}/pipeline/text2text-generation/t5",
                         json={"inputs": TEXT, "parameters": {"task": "sst2"}})
    check("requests: text2text-generation", text.json() == [{"generated_text": "positive"}])
    answer = requests.post(f"{url}/v1/answer", json={"question": QUESTION, "context": CONTEXT})
    check("requests: answer", answer.json()["results"][0]["answer"] == "Ann Smith")


hub()
oip()
rest()
