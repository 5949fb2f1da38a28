"""What threads do: a second one that compiles ahead, one for BLAS, and those of users one at a time.

Compilation is most of the time of a first answer. It takes one core, and Python's lock for the least part of it only.

The factorisations of small matrices that JAX hands to SciPy's BLAS are slower on several threads than on one: these
wait for one another at full speed, and take the core from the thread that has work.

NumPyro's effect handlers are one list for all threads: two that trace models at once find each other's sites.
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from threadpoolctl import threadpool_limits

__all__ = ["alone_in_numpyro", "begin", "num_cores", "one_blas_thread", "wait"]


class _Task(NamedTuple):
    key: Hashable
    work: Callable[[], object]
    done: threading.Event


_queue: list[_Task] = []
_at_work: list[_Task] = []
_thread = threading.Thread()
_of_users, _of_numpyro = threading.RLock(), threading.RLock()
_held = threading.local()


def begin(key: Hashable, work: Callable[[], object]) -> None:
    """Do the work of `key` in the second thread, after what it has to do already; a failure ends it without a word.

    Where there is one core, nothing is done ahead.
    """
    global _thread
    if num_cores() == 1:
        return
    _queue.append(_Task(key, work, threading.Event()))
    if not _thread.is_alive():
        _thread = threading.Thread(target=_work_off, name="numpyro-onestep compiler")
        _thread.start()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait(key: Hashable) -> None:
    """Return when no work of `key` is being done; what has not been begun is given up, and is for the caller to do.

    Until then the caller does what is waiting besides.
    """
    _queue[:] = [task for task in _queue if task.key != key]
    if getattr(_held, "count", 0):  # what is at work may be waiting for this thread
        return
    for task in [task for task in _at_work if task.key == key]:
        # after a fork there is no second thread, and what it was at is never done
        while _thread.is_alive() and not task.done.is_set():
            if not _work():
                task.done.wait(0.1)


def _work_off() -> None:
    while threading.main_thread().is_alive() and _work():  # a process that ends does not wait for all of it
        pass


def _work() -> bool:
    """Do the next task; whether there was one."""
    try:
        task = _queue.pop(0)
    except IndexError:
        return False
    _at_work.append(task)
    try:
        task.work()
    except Exception:  # the call itself, if it comes, will tell
        pass
    finally:
        task.done.set()
        _at_work.remove(task)
    return True


@contextmanager
def alone_in_numpyro() -> Iterator[None]:
    """No other thread of this package within NumPyro's effect handlers meanwhile."""
    with _of_numpyro:
        _held.count = getattr(_held, "count", 0) + 1
        try:
            yield
        finally:
            _held.count -= 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread within, and one thread of the user's at a time; usable as a decorator."""
    with _of_users, threadpool_limits(limits=1, user_api="blas"):
        yield


def _forget() -> None:
    """Locks that are held by threads which a forked process does not have."""
    global _of_users, _of_numpyro
    _of_users, _of_numpyro = threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
