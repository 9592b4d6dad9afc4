"""Work beside the kernel's own: one worker thread for each model, jobs in steps, cancelled between.

All explorers on one model share its worker, which goes round their jobs step by step: a long tree of
one does not keep another's token list waiting.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_log = logging.getLogger(__name__)


class Cancelled(BaseException):
    """Raised within a job that nobody waits for any more, where it has no other way to stop.

    No ``Exception``: what loads files takes one for a failure of its own, and may try again.
    """


class Job:
    """Work done in steps.

    Parameters
    ----------
    steps
        Makes the generator that does the work and gives way after every step. It is handed the job,
        whose ``cancelled`` it looks at between steps, and leaves what it has in order.
    failed
        Told the job, and what its generator raised.
    """

    def __init__(
        self,
        steps: Callable[[Job], Iterator[None]],
        failed: Callable[[Job, BaseException], None],
    ) -> None:
        self.cancelled = threading.Event()
        self._steps = steps(self)
        self._failed = failed

    def step(self) -> bool:
        """Do one step; return whether more are to come."""
        try:
            next(self._steps)
        except StopIteration:
            return False
        # Whatever ends a job, even an exit, is the widget's to tell: nobody sees a thread's log.
        except BaseException as error:  # noqa: BLE001
            try:
                self._failed(self, error)
            except Exception:  # noqa: BLE001 - the other jobs of the worker must go on
                _log.exception("a failure could not be told")
            return False
        return True


class Worker:
    """A daemon thread that does jobs, one step of each in turn, and ends when there are none."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = False
        _all.add(self)

    @classmethod
    def of(cls, model: Any) -> Worker:
        """Return the worker of a model: hooks are global to a model, so its runs go one by one."""
        with _workers_guard:
            return _workers.setdefault(model, cls())

    def submit(self, job: Job) -> None:
        """Add a job to the round."""
        with self._lock:
            self._jobs.append(job)
            if self._thread is None or not self._thread.is_alive():
                # In a copy of the context, or what a job prints would be lost.
                context = contextvars.copy_context()
                self._thread = threading.Thread(
                    target=context.run, args=(self._work,), name="sae-explorer", daemon=True
                )
                self._thread.start()

    def end(self, seconds: float) -> None:
        """Begin no further step, and wait a while for the one that is under way."""
        with self._lock:
            self._jobs.clear()
            thread = self._thread
            self._ended = True
        if thread is not None:
            thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._ended or not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
            if job.step():
                with self._lock:
                    self._jobs.append(job)


#: Seconds that the end of the program waits for a step, such as the import of torch.
_PATIENCE = 10.0


@atexit.register
def _end_all() -> None:
    # A thread that is still within a library when the interpreter goes away takes the process down.
    for worker in list(_all):
        worker.end(_PATIENCE)


_all: weakref.WeakSet[Worker] = weakref.WeakSet()
_workers: weakref.WeakKeyDictionary[Any, Worker] = weakref.WeakKeyDictionary()
_workers_guard = threading.Lock()
