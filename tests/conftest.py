"""Fixtures that several rooms share."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test workers share the cores
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler"
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmarks, tokenizer and text for development; they are not part of the project."""
    folder = Path(os.environ.get("LVF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the development data in {folder} (set LVF_SHARED_DATA)")
    return folder
