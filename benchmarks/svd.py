"""Speed and accuracy of the spectra of weight changes, side by side with a dense SVD.

`python benchmarks/svd.py` takes one matrix of Llama-2-7B's MLP; `python benchmarks/svd.py block`
analyses a whole block, the embedding and the head of that shape through `lvf.analysis`, and tells
the peak of memory. Weights are random in bf16, updates what a small step leaves of them.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lvf.analysis.changes import Change, pieces
from lvf.analysis.spectra import factor_singular_values, measures, singular_values
from lvf.analysis.subjects import base_weights, models
from lvf.analysis.weights import analyse_weights
from lvf.config.compose import compose

LLAMA_2_7B = {
    **dict.fromkeys(["self_attn.q_proj", "self_attn.k_proj"], (4096, 4096)),
    **dict.fromkeys(["self_attn.v_proj", "self_attn.o_proj"], (4096, 4096)),
    **dict.fromkeys(["mlp.gate_proj", "mlp.up_proj"], (11008, 4096)),
    "mlp.down_proj": (4096, 11008),
}


def weights(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A matrix in bf16 before and after finetuning."""
    base = (torch.randn(shape) * 0.02).bfloat16()
    tuned = (base.float() + 2e-4 * torch.randn(shape)).bfloat16()
    return base, tuned


def timed(work: Callable[[], Any], times: int = 1) -> tuple[Any, float, float]:
    """Result, seconds, and seconds of all cores; the least of several times."""
    seconds, cpu = [], []
    for _ in range(times):
        start, cpu_start = time.perf_counter(), time.process_time()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return result, min(seconds), min(cpu)


def matrix(rows: int, columns: int, rank: int) -> None:
    """One matrix: seconds, the ratio to a float64 SVD, the largest error of what is reported."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base, tuned = (weight.to(device) for weight in weights((rows, columns)))
    change = Change(base, tuned)
    exact = tuned.double() - base.double()
    b = torch.randn(rows, rank, device=device)
    a = torch.randn(rank, columns, device=device)
    ways: dict[str, Callable[[], Tensor]] = {
        "torch.linalg.svdvals, float32": lambda: torch.linalg.svdvals(exact.float()).double(),
        "lvf.analysis, from bf16 weights": lambda: singular_values(
            change.update_pieces, max(rows, columns)
        ),
    }
    warm = torch.randn(600, 700, device=device)
    singular_values(lambda: pieces(warm), 700)  # load the libraries
    truth, slowest, cpu = timed(lambda: torch.linalg.svdvals(exact))
    print(f"{rows} x {columns}: rank90 {measures(truth)['rank90']}")
    print(
        f"{'':32}{'seconds':>9}{'ratio':>7}{'CPU s':>8}{'error of measures':>19}{'of values':>11}"
    )
    print(f"{'torch.linalg.svdvals, float64':32}{slowest:9.2f}{1:7.1f}{cpu:8.1f}")
    for name, work in ways.items():
        sigma, seconds, cpu = timed(work, times=1 if "svdvals" in name else 3)
        values = worst(sigma[truth > 1e-4 * truth[0]], truth[truth > 1e-4 * truth[0]])
        both = ([*measures(spectrum).values()] for spectrum in (sigma, truth))
        reported = worst(*(torch.tensor(one, dtype=torch.float64) for one in both))
        told = f"{name:32}{seconds:9.2f}{slowest / seconds:7.1f}{cpu:8.1f}"
        print(f"{told}{reported:19.1e}{values:11.1e}")
    _, seconds, cpu = timed(lambda: factor_singular_values(b, a), times=3)
    print(f"{f'factors of rank {rank}':32}{seconds:9.2f}{slowest / seconds:7.1f}{cpu:8.1f}")
    print("errors are relative and the largest; of values, of those above 1e-4 of the largest")


def worst(found: Tensor, true: Tensor) -> float:
    """Largest relative error."""
    return float((found / true - 1).abs().max())


def block() -> None:
    """One block, the embedding and the head of Llama-2-7B's shape, from files to a record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shapes = {f"model.layers.0.{module}.weight": at for module, at in LLAMA_2_7B.items()}
        for module in ("model.embed_tokens", "lm_head"):
            shapes[f"{module}.weight"] = (32000, 4096)
        write_models(folder, shapes)
        cfg = compose(
            "+experiment=code_cpt", "method=full", f"model.path={folder}/base",
            f"tuned={folder}/tuned", f"paths.runs={folder}/runs",
        )  # fmt: skip
        _, seconds, _ = timed(lambda: analyse_weights(models(cfg), base_weights(cfg), folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(shapes)} matrices in {seconds:.1f} s; peak memory {peak:.2f} GiB")


def write_models(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """A base and a tuned model, written by another process, whose memory does not count."""
    script = """
import sys, torch; from pathlib import Path; from safetensors.torch import save_file
from svd import weights
folder, shapes = Path(sys.argv[1]), eval(sys.argv[2])
pairs = {name: weights(shape) for name, shape in shapes.items()}
for which, name in enumerate(("base", "tuned")):
    (folder / name).mkdir()
    (folder / name / "config.json").write_text("{}")
    tensors = {key: pair[which] for key, pair in pairs.items()}
    save_file(tensors, folder / name / "model.safetensors")
"""
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-c", script, folder, repr(shapes)], cwd=here, check=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=["matrix", "block"], default="matrix")
    parser.add_argument("--shape", nargs=2, type=int, default=[4096, 11008])
    parser.add_argument("--rank", type=int, default=256)
    given = parser.parse_args()
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    print(torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if given.what == "block":
        block()
    else:
        matrix(*given.shape, given.rank)


if __name__ == "__main__":
    main()
