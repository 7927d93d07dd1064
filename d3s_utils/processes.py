"""Who is at work: names for processes that outlive their numbers, and a lock that dies with its holder."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


class RunningError(RuntimeError):
    """Somebody else is at work in this folder."""


def own_identity() -> str:
    """Return a name of this process, ``host number birth``, that no later process will have."""
    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time()}"


def is_alive(identity: str) -> bool:
    """Return whether the process called `identity` (see `own_identity`) still runs.

    A process of another machine counts as alive, since nobody can see it from here.
    """
    host, _, rest = identity.partition(" ")
    if host != socket.gethostname():
        return bool(identity)
    number, _, birth = rest.partition(" ")
    try:
        process = psutil.Process(int(number))
        return process.create_time() == float(birth) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False


@contextmanager
def exclusive(path: str | os.PathLike, *, patience: float = 30.0) -> Iterator[int]:
    """Hold the lock file at `path`; the system lets go of it when the holder and its heirs are dead, however they died.

    Args:
        path: The lock file. It stays behind, empty of meaning; its folder is made.
        patience: Seconds to wait for the heirs of a holder that has died.

    Yields:
        The file's descriptor. A child that inherits it keeps the lock.

    Raises:
        RunningError: If a living process holds the lock.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + patience
        while not _lock(descriptor):
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace")
            if is_alive(holder) or time.monotonic() > end:
                number = (holder.split() or ["?", "?"])[1]
                raise RunningError(
                    f"another run (process {number}) is at work in {path.parent}; let it end or stop it, then try again"
                )
            time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, own_identity().encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def die_with(identity: str, *, every: float = 0.5) -> None:
    """End this process and all its children as soon as the process called `identity` is dead.

    A process of another machine cannot be watched; then nothing happens.
    """
    if identity.partition(" ")[0] == socket.gethostname():
        threading.Thread(target=_watch, args=(identity, every), daemon=True).start()


def stop_tree(number: int, *, grace: float = 5.0) -> None:
    """Ask the process `number`, its children and theirs to end; after `grace` seconds make them."""
    try:
        process = psutil.Process(number)
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        _signal(member, "terminate")
    for member in psutil.wait_procs(family, timeout=grace)[1]:
        _signal(member, "kill")


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _watch(identity: str, every: float) -> None:
    while is_alive(identity):
        time.sleep(every)
    for child in psutil.Process().children(recursive=True):
        _signal(child, "kill")
    os._exit(1)


def _signal(process: psutil.Process, method: str) -> None:
    try:
        getattr(process, method)()
    except psutil.NoSuchProcess:
        return
