"""The system calls that a generated program may not make: a classic BPF filter for Linux.

Numbers are the kernel's (`asm/unistd_64.h` for x86-64, `asm-generic/unistd.h` for AArch64).
"""

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple


class Call(NamedTuple):
    """Numbers of a system call; None where the architecture lacks it."""

    x86_64: int | None
    aarch64: int | None


CLONE, PRLIMIT, FCNTL, IOCTL = Call(56, 220), Call(302, 261), Call(72, 25), Call(16, 29)
CLONE3, OPEN, OPENAT, OPENAT2 = Call(435, 435), Call(2, None), Call(257, 56), Call(437, 437)
NEWEST = 450  # later calls do not exist for a program, as on the kernels before them

FORBIDDEN = (
    # other processes: fork, vfork, execve, execveat; kill, tkill, tgkill, *sigqueueinfo, pidfd_*
    *(Call(57, None), Call(58, None), Call(59, 221), Call(322, 281)),
    *(Call(62, 129), Call(200, 130), Call(234, 131), Call(129, 138), Call(297, 240)),
    *(Call(434, 434), Call(438, 438), Call(424, 424)),
    # ptrace, process_vm_readv and _writev, process_madvise, process_mrelease, kcmp, perf_event_open
    *(Call(101, 117), Call(310, 270), Call(311, 271), Call(440, 440), Call(448, 448)),
    *(Call(312, 272), Call(298, 241)),
    # setpriority, sched_set*, ioprio_set, migrate_pages, move_pages
    *(Call(141, 140), Call(144, 119), Call(142, 118), Call(314, 274), Call(203, 122)),
    *(Call(251, 30), Call(256, 238), Call(279, 239)),
    # namespaces and mounts: unshare, setns, mount, umount2, pivot_root, chroot, the new mount calls
    *(Call(272, 97), Call(308, 268), Call(165, 40), Call(166, 39), Call(155, 41), Call(161, 51)),
    *(Call(number, number) for number in (428, 429, 430, 431, 432, 433, 442)),
    *(Call(303, 264), Call(304, 265)),  # name_to_handle_at, open_by_handle_at
    # socket; memory beyond the limits: memfd_create, memfd_secret, shmget, msgget, semget, mq_open
    *(Call(41, 198), Call(319, 279), Call(447, 447), Call(29, 194), Call(68, 186)),
    *(Call(64, 190), Call(240, 180)),
    # kernel surface: bpf, io_uring_setup, userfaultfd, add_key, request_key, keyctl, syslog
    *(Call(321, 280), Call(425, 425), Call(323, 282), Call(248, 217), Call(249, 218)),
    *(Call(250, 219), Call(103, 116)),
)
CHANGING_FILES = (
    # creat, mknod(at), mkdir(at), rmdir, unlink(at), rename(at, at2), link(at), symlink(at)
    *(Call(85, None), Call(133, None), Call(259, 33), Call(83, None), Call(258, 34)),
    *(Call(84, None), Call(87, None), Call(263, 35), Call(82, None), Call(264, 38)),
    *(Call(316, 276), Call(86, None), Call(265, 37), Call(88, None), Call(266, 36)),
    # truncate, chmod and kin, chown and kin, utime and kin, setxattr and removexattr and kin
    *(Call(76, 45), Call(90, None), Call(91, 52), Call(268, 53), Call(92, None), Call(93, 55)),
    *(Call(94, None), Call(260, 54), Call(132, None), Call(235, None), Call(261, None)),
    *(Call(280, 88), Call(188, 5), Call(189, 6), Call(190, 7), Call(197, 14), Call(198, 15)),
    Call(199, 16),
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CLONE_THREAD = 0x10000
SETOWN = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to others by way of a file
SETOWN_IOCTL = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP

LOAD, EQUAL, ABOVE, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def _when(call: Call, machine: str, block: list[Instruction]) -> list[Instruction]:
    number = getattr(call, machine)
    return [] if number is None else [(EQUAL, 0, len(block), number), *block]


def _argument(
    call: Call, index: int, test: int, values: tuple[int, ...], refused: bool, machine: str
) -> list[Instruction]:
    """Refuse a call where the low half of an argument meets, or does not meet, a test."""
    met, unmet = (REFUSE, ALLOW) if refused else (ALLOW, REFUSE)
    tests = [(test, len(values) - n, 0, value) for n, value in enumerate(values)]
    block = [(LOAD, 0, 0, 16 + 8 * index), *tests, (RETURN, 0, 0, unmet), (RETURN, 0, 0, met)]
    return _when(call, machine, block)


def build(may_change_files: bool) -> bytes:
    """The filter as the kernel reads it.

    Args:
        may_change_files: Leave that to the file system; if not, nothing can be opened for writing.
    """
    machine = platform.machine()
    program: list[Instruction] = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        (ABOVE, 0, 1, NEWEST),
        (RETURN, 0, 0, UNKNOWN),
        *_when(CLONE3, machine, [(RETURN, 0, 0, UNKNOWN)]),  # libc then takes clone
        *_argument(CLONE, 0, ANY_BIT, (CLONE_THREAD,), False, machine),
        *_argument(PRLIMIT, 0, EQUAL, (0,), False, machine),
        *_argument(FCNTL, 1, EQUAL, SETOWN, True, machine),
        *_argument(IOCTL, 1, EQUAL, SETOWN_IOCTL, True, machine),
    ]
    forbidden = FORBIDDEN
    if not may_change_files:
        program += _argument(OPEN, 1, ANY_BIT, (WRITING,), True, machine)
        program += _argument(OPENAT, 2, ANY_BIT, (WRITING,), True, machine)
        program += _when(OPENAT2, machine, [(RETURN, 0, 0, UNKNOWN)])
        forbidden += CHANGING_FILES
    for call in forbidden:
        program += _when(call, machine, [(RETURN, 0, 0, REFUSE)])
    program.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def install(libc: ctypes.CDLL, program: bytes) -> None:
    """Put this process, for good, under a filter, and give up gaining privileges.

    Raises:
        OSError: the kernel refuses.
    """
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")
