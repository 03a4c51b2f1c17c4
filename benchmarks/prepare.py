"""Speed and memory of `lvf.prepare` beside llm-foundry's conversion script, on one core each.

    python benchmarks/prepare.py --texts FOLDER --tokenizer FOLDER --foundry-python PYTHON

`--texts` holds .jsonl files with strings, which are repeated to the sizes asked for; `--tokenizer`
is a folder in Hugging Face format; `--foundry-python` is the Python of an environment of its own
with llm-foundry (and setuptools below 81) installed. Each conversion is a process of its own on the
same file of documents, cut into rows of 4096 tokens; what counts is the CPU time of the conversion
itself, without imports.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import json, resource, sys, time
def usage():
    return [sum(getattr(resource.getrusage(who), name) for name in ("ru_utime", "ru_stime"))
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
def measured(work):
    wall, cpu = time.perf_counter(), sum(usage())
    tokens = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"tokens": tokens, "wall": time.perf_counter() - wall,
                      "cpu": sum(usage()) - cpu, "peak_mib": peak}))
"""
OURS = (
    MEASURE
    + """
from transformers import LlamaConfig
from lvf.config.compose import compose
from lvf.data.shards import prepare
import streaming
texts, tokenizer, out, compare = sys.argv[1:5]
LlamaConfig(max_position_embeddings=4096).save_pretrained(out + "/model")
cfg = compose("scale=embedded", "domain=math", "regime=cpt", f"model.path={out}/model",
              f"model.tokenizer={tokenizer}", f"data.train.path={texts}", "data.validation=null",
              "data.heldout=null", f"paths.shards={out}/shards", "training.seq_len=4096",
              "training.global_batch_size=1", "runtime.prepare_processes=1")
if compare == "no":
    cfg.evals.tasks = cfg.evals.forgetting = []
measured(lambda: prepare(cfg).num_tokens)
"""
)
FOUNDRY = (
    MEASURE
    + """
from pathlib import Path
from llmfoundry.command_utils.data_prep.convert_dataset_json import convert_dataset_json
texts, tokenizer, out, _ = sys.argv[1:5]
def work():
    convert_dataset_json(path=texts, out_root=out + "/foundry", split="train", tokenizer=tokenizer,
                         compression=None, concat_tokens=4096, bos_text="", eos_text="</s>")
    index = json.loads(Path(out, "foundry", "index.json").read_text())
    return 4096 * sum(shard["samples"] for shard in index["shards"])
measured(work)
"""
)


def write_texts(folder: Path, target: Path, megabytes: int) -> None:
    """The documents of the folder's files, over and over, up to the size."""
    documents = [
        "\n".join(value for value in json.loads(line).values() if isinstance(value, str))
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]
    size, number = 0, 0
    with target.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            size += file.write(json.dumps({"text": documents[number % len(documents)]}) + "\n")
            number += 1


def convert(
    python: str, script: str, texts: Path, tokenizer: Path, compare: str
) -> dict[str, float]:
    """What one conversion in a fresh process measured."""
    with tempfile.TemporaryDirectory() as out:
        ran = subprocess.run(
            [python, "-c", script, str(texts), str(tokenizer), out, compare],
            stdout=subprocess.PIPE, text=True, check=True,
            env={"TOKENIZERS_PARALLELISM": "false", "HF_HOME": out, "OMP_NUM_THREADS": "1",
                 "PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    measured: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Print one line a conversion, and the ratio at the largest size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--foundry-python")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[25, 100])
    args = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}")
    speed: dict[str, float] = {}
    for megabytes in args.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            texts = Path(folder) / "texts.jsonl"
            write_texts(args.texts, texts, megabytes)
            runs = [
                ("lvf", sys.executable, OURS, "no"),
                ("lvf with overlap", sys.executable, OURS, "yes"),
            ]
            if args.foundry_python:
                runs.append(("llm-foundry", args.foundry_python, FOUNDRY, "no"))
            for name, python, script, compare in runs:
                got = convert(python, script, texts, args.tokenizer, compare)
                speed[name] = got["tokens"] / got["cpu"]
                print(
                    f"{name:17} {megabytes:5} MB  {got['tokens']:>12,} tokens  "
                    f"{got['wall']:6.1f} s  {got['cpu']:6.1f} CPU s  "
                    f"{speed[name]:>9,.0f} tokens/CPU s  peak {got['peak_mib']:,.0f} MiB",
                    flush=True,
                )
    if args.foundry_python:
        ours = speed["lvf"], speed["lvf with overlap"]
        print(
            "lvf / llm-foundry: " + ", ".join(f"{one / speed['llm-foundry']:.2f}" for one in ours)
        )


if __name__ == "__main__":
    main()
