"""Seconds until a command has answered, and until a run's first batch: medians of some rounds.

python benchmarks/start.py --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

ANSWERS = (
    "lvf.train --help",
    "lvf.train --cfg job",
    "lvf.grid sweep=main scale=embedded",
    "lvf.grid sweep=main scale=paper",
)
RUN = (
    "lvf.train +experiment=math_ift method=lora duration=1 data.max_documents=200 "
    "runtime.measure=false"
)


def answer_seconds(command: str, folder: str) -> float:
    """From the start of a command to its end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=folder, capture_output=True, check=True
    )
    return time.perf_counter() - began


def first_batch_seconds(folder: str) -> float:
    """From the start of a run, its data to be prepared as well, to the end of its first batch."""
    began = time.perf_counter()
    line = [sys.executable, "-m", *RUN.split(), f"paths.runs={tempfile.mkdtemp(dir=folder)}"]
    with subprocess.Popen(
        line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        # Progress goes to stderr, a bar that tells the loss once there is one.
        text = ""
        while "loss" not in text:
            text += process.stderr.read(1) or sys.exit(text)
        seconds = time.perf_counter() - began
        process.stderr.read()
    return seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for command in ANSWERS:
            median = statistics.median(answer_seconds(command, folder) for _ in range(rounds))
            print(f"{median:6.2f} s  python -m {command}", flush=True)
        median = statistics.median(first_batch_seconds(folder) for _ in range(rounds))
        print(f"{median:6.2f} s  first batch of python -m {RUN}")


if __name__ == "__main__":
    main()
