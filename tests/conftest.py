"""Fixtures that several packages of tests share, and failures that are named at once."""

import os
import shutil
from pathlib import Path

import pytest

from lvf.config.validate import COMPILED_RIGHTLY, torch_version

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test workers share the cores
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler"
)
compiles_rightly = pytest.mark.skipif(
    torch_version() not in COMPILED_RIGHTLY, reason="runtime.compile is refused on this torch"
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmarks, tokenizer and text for development; they are not part of the project."""
    folder = Path(os.environ.get("LVF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the development data in {folder} (set LVF_SHARED_DATA)")
    return folder


class NameFailures:
    """Prints what failed when it fails: a suite that is stopped has no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            last_lines = report.longreprtext.splitlines()[-15:]
            terminal.write_line("\n".join(["", f"FAILED {report.nodeid}", *last_lines]))


def pytest_configure(config: pytest.Config) -> None:
    """Name failures at once, in the process that prints."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(NameFailures(config))
