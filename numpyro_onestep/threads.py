"""What the cores do: a second thread that compiles ahead, and one thread for BLAS.

Compilation is most of the time of a first answer. It takes one core, and Python's lock for the least part of it only.

The factorisations of small matrices that JAX hands to SciPy's BLAS are slower on several threads than on one: these
wait for one another at full speed, and take the core from the thread that has work.
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from threadpoolctl import threadpool_limits

__all__ = ["begin", "num_cores", "one_blas_thread", "wait"]


class _Task(NamedTuple):
    key: Hashable
    work: Callable[[], object]
    done: threading.Event


_queue: list[_Task] = []
_at_work: list[_Task] = []
_thread = threading.Thread()


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
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread within; usable as a decorator."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
