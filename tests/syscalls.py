"""A process stopped, or failed, at its n-th call to the system that changes files, and the disk a power failure leaves.

Linux on x86-64, by ptrace (``man 2 ptrace``): the call is seen before it is done, so that every state of the files that
a crash can leave is met once. Reads change nothing, so a stop at one leaves what a stop at the change before it left.
"""

import ctypes
import errno
import os
import platform
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

Loss = Literal["none", "torn", "undone", "reordered"]
LOSSES: Final[tuple[Loss, ...]] = ("none", "torn", "undone", "reordered")

_TRACEME, _POKEUSER, _GETREGS, _SYSCALL, _SETOPTIONS = 0, 6, 12, 24, 0x4200
_SYSGOOD_AND_EXITKILL = 0x1 | 0x100000
_RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _R10, _R8 = 10, 12, 13, 14, 15, 7, 9  # places in user_regs_struct
_AT_FDCWD = -100

# Number: name, and where it names what it changes: a descriptor, a path, or a folder's descriptor and a path in it.
_CALLS: Final = {
    1: ("write", "fd 0"), 18: ("pwrite64", "fd 0"), 20: ("writev", "fd 0"), 40: ("sendfile", "fd 0"),
    74: ("fsync", "fd 0"), 75: ("fdatasync", "fd 0"), 77: ("ftruncate", "fd 0"), 91: ("fchmod", "fd 0"),
    285: ("fallocate", "fd 0"), 296: ("pwritev", "fd 0"), 326: ("copy_file_range", "fd 2"),
    2: ("open", "path 0"), 76: ("truncate", "path 0"), 82: ("rename", "path 0"), 83: ("mkdir", "path 0"),
    84: ("rmdir", "path 0"), 85: ("creat", "path 0"), 86: ("link", "path 1"), 87: ("unlink", "path 0"),
    88: ("symlink", "path 1"), 90: ("chmod", "path 0"), 132: ("utime", "path 0"), 235: ("utimes", "path 0"),
    257: ("openat", "at 0"), 258: ("mkdirat", "at 0"), 263: ("unlinkat", "at 0"), 264: ("renameat", "at 0"),
    265: ("linkat", "at 2"), 266: ("symlinkat", "at 1"), 268: ("fchmodat", "at 0"), 280: ("utimensat", "at 0"),
    316: ("renameat2", "at 0"),
}  # fmt: skip
_REMOVING = ("unlink", "unlinkat", "rmdir")
_IGNORED = ("fchmod", "chmod", "fchmodat", "utime", "utimes", "utimensat", "fallocate")

_libc = ctypes.CDLL(None, use_errno=True)


def unavailable() -> str | None:
    """Why processes cannot be stopped so here; None where they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "processes are stepped by ptrace on Linux, x86-64"
    try:
        run(lambda: 0, Path("/nonexistent"))
    except PermissionError:
        return "this system does not let a process trace its own child (ptrace)"
    return None


class Call(NamedTuple):
    """A call that changes files: its name, the paths it names, and whether it empties a file that it opens."""

    name: str
    path: str
    to: str = ""
    empties: bool = False


class Fault(NamedTuple):
    """The n-th call fails with the error number; with ``on`` all calls after it, too, but a full disk lets remove."""

    number: int
    error: int
    on: bool = False

    def strikes(self, number: int, call: Call) -> bool:
        """Whether this call fails."""
        frees = self.error == errno.ENOSPC and call.name in _REMOVING
        return number == self.number or (self.on and number > self.number and not frees)


@dataclass
class Disk:
    """What has been flushed: a file's bytes by fsync of the file, its name by fsync of the folder, in no other way."""

    dirty: set[str] = field(default_factory=set)
    pending: list[tuple[str, str, str, bytes | None]] = field(default_factory=list)  # what, path, to, bytes before

    def done(self, call: Call, before: bytes | None, existed: bool) -> None:
        """Take in a call that was successful; ``before`` are the bytes it removed or replaced."""
        name, path, to, empties = call
        if name in ("open", "openat", "creat"):
            if empties or not existed:
                self.dirty.add(path)
            if not existed:
                self.pending.append(("made", path, "", None))
        elif name in ("mkdir", "mkdirat"):
            self.pending.append(("made", path, "", None))
        elif name in ("fsync", "fdatasync"):
            self.dirty.discard(path)
            self.pending = [op for op in self.pending if path not in {str(Path(p).parent) for p in op[1:3] if p}]
        elif name.startswith("rename"):
            self.dirty = {_moved(known, path, to) for known in self.dirty}
            self.pending = [(what, _moved(p, path, to), _moved(q, path, to), b) for what, p, q, b in self.pending]
            self.pending.append(("renamed", path, to, before))
        elif name in _REMOVING:
            self.dirty.discard(path)
            self.pending.append(("removed", path, "", before))
        elif name not in _IGNORED:
            assert name in ("write", "pwrite64", "writev", "ftruncate", "pwritev", "sendfile"), name
            self.dirty.add(path)

    def lose(self, loss: Loss) -> None:
        """Do to the files what a power failure may: lose what was not flushed.

        ``torn`` cuts files in half; ``undone`` undoes what was done to names, ``reordered`` all of that but removals.
        """
        if loss == "torn":
            for path in self.dirty:
                if Path(path).is_file():
                    os.truncate(path, Path(path).stat().st_size // 2)
        if loss in ("undone", "reordered"):
            left = list(self.pending)
            while left:
                what, path, to, before = left.pop()
                if what != "removed" or loss == "undone":
                    _undo(what, Path(path), Path(to), before)
                if what == "renamed":  # what was done before it was done under the name before it
                    left = [(w, _moved(p, to, path), _moved(q, to, path), b) for w, p, q, b in left]


def _moved(known: str, source: str, to: str) -> str:
    return to + known.removeprefix(source) if known == source or known.startswith(f"{source}/") else known


def _undo(what: str, path: Path, to: Path, before: bytes | None) -> None:
    if what == "removed":
        if before is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(before)
    elif what == "renamed":
        if to.exists():
            to.rename(path)
        if before is not None:
            to.write_bytes(before)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass
class Outcome:
    """The calls that were reached, the process's exit code (None: it was stopped), and the state of the disk."""

    calls: list[Call]
    code: int | None
    disk: Disk


def run(
    function: Callable[[], int], under: Path, *, stop_before: int | None = None, fault: Fault | None = None
) -> Outcome:
    """Run a function in a process of its own, and count its changing calls, from 0, on paths in ``under``.

    It is killed before the call ``stop_before``. What it returns is the exit code. Raises PermissionError where the
    system does not allow it.
    """
    pid = _started(function)
    outcome = Outcome([], None, Disk())
    entering, hit, passed = True, False, None
    while (status := _step(pid)) is not None:
        if status != signal.SIGTRAP | 0x80:
            continue
        registers = (ctypes.c_ulonglong * 27)()
        _libc.ptrace(_GETREGS, pid, None, ctypes.byref(registers))
        if entering:
            call = _call(pid, registers, str(under))
            if call is not None:
                number = len(outcome.calls)
                outcome.calls.append(call)
                if number == stop_before:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    return outcome
                hit = fault is not None and fault.strikes(number, call)
                if hit:
                    _libc.ptrace(_POKEUSER, pid, ctypes.c_void_p(8 * _ORIG_RAX), ctypes.c_void_p(-1))
                passed = call, _bytes_at(call.to or call.path), os.path.lexists(call.path)
        elif hit and fault is not None:
            _libc.ptrace(_POKEUSER, pid, ctypes.c_void_p(8 * _RAX), ctypes.c_void_p(-fault.error))
            hit, passed = False, None
        elif passed is not None:
            if ctypes.c_longlong(registers[_RAX]).value >= 0:
                outcome.disk.done(*passed)
            passed = None
        entering = not entering
    outcome.code = _codes.pop(pid)
    return outcome


_codes: dict[int, int] = {}


def _started(function: Callable[[], int]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: none is used in the child
        pid = os.fork()
    if pid == 0:
        code = 99
        try:
            if _libc.ptrace(_TRACEME, 0, None, None):
                os._exit(98)
            os.kill(os.getpid(), signal.SIGSTOP)
            code = function()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status) or _libc.ptrace(_SETOPTIONS, pid, None, ctypes.c_void_p(_SYSGOOD_AND_EXITKILL)):
        raise PermissionError(errno.EPERM, "ptrace is not permitted")
    return pid


def _step(pid: int, sent: int = 0) -> int | None:
    """Let the process go on to its next stop, and return the signal of it; None where it ended."""
    _libc.ptrace(_SYSCALL, pid, None, ctypes.c_void_p(sent))
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        _codes[pid] = os.waitstatus_to_exitcode(status)
        return None
    stop = os.WSTOPSIG(status)
    return stop if stop == signal.SIGTRAP | 0x80 else _step(pid, stop)


def _call(pid: int, registers: "ctypes.Array[ctypes.c_ulonglong]", under: str) -> Call | None:
    known = _CALLS.get(registers[_ORIG_RAX])
    if known is None:
        return None
    name, where = known
    arguments = [registers[place] for place in (_RDI, _RSI, _RDX, _R10, _R8)]
    empties = name == "creat"
    if name in ("open", "openat"):
        flags = arguments[2 if name == "openat" else 1]
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return None
        empties = bool(flags & os.O_TRUNC)
    kind, index = where.split()
    path = _path(pid, kind, arguments, int(index))
    to = ""
    if name.startswith("rename"):
        to = _path(pid, kind, arguments, 1 if kind == "path" else 2)
    return Call(name, path, to, empties) if path == under or path.startswith(f"{under}/") else None


def _path(pid: int, kind: str, arguments: list[int], index: int) -> str:
    if kind == "fd":
        return _descriptor(pid, arguments[index])
    folder = Path(_descriptor(pid, arguments[index]) if kind == "at" else f"/proc/{pid}/cwd")
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(arguments[index + (kind == "at")])
        named = memory.read(4096).partition(b"\0")[0].decode()
    return named if named.startswith("/") else str(folder / named)


def _descriptor(pid: int, number: int) -> str:
    signed = ctypes.c_int(number & 0xFFFFFFFF).value
    link = f"/proc/{pid}/cwd" if signed == _AT_FDCWD else f"/proc/{pid}/fd/{signed}"
    return str(Path(link).readlink()) if os.path.lexists(link) else ""


def _bytes_at(path: str) -> bytes | None:
    return Path(path).read_bytes() if Path(path).is_file() else None
