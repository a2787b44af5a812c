"""Children by fork: they come up at once and hold nothing but what they were given, on any kernel."""

import subprocess
import sys

# Forks a child that tells which descriptors it holds, in a process where close_range(2) does not exist, as
# with a kernel before 5.9 or a C library that knows no such call.
FORKING = """
import ctypes, os, signal, struct
from ollama_guard.sentinel import children

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

CLOSE_RANGE, ENOSYS = 436, 38
load, equal, answer = 0x20, 0x15, 0x06
code = b"".join(
    struct.pack("HBBI", *step)
    for step in ((load, 0, 0, 0), (equal, 0, 1, CLOSE_RANGE), (answer, 0, 0, 0x50000 | ENOSYS),
                 (answer, 0, 0, 0x7FFF0000))
)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code)), 0, 0) == 0
assert libc.syscall(CLOSE_RANGE, 900, 901, 0) == -1 and ctypes.get_errno() == ENOSYS

far = os.dup2(0, 777)
ours, theirs = os.pipe()

def tell():
    listed = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
    held = [str(fd) for fd in listed if os.path.lexists(f"/proc/self/fd/{fd}")]  # not the listing's own
    os.write(theirs, " ".join(held).encode())

child = children.fork(tell, (theirs,), parent_death_signal=signal.SIGKILL)
os.close(theirs)
assert child.exited(10.0), "the child did not come up within 10 s"
print(child.reap(), os.read(ours, 100).decode() == f"0 1 2 {theirs}")
os._exit(0)
"""


def test_a_child_comes_up_at_once_where_the_kernel_knows_no_close_range() -> None:
    """It closed every number up to 2**31 one by one: no witness, no reaper, no hands, for a quarter hour."""
    argv = [sys.executable, "-c", FORKING]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("exit status 0 True\n", "")
