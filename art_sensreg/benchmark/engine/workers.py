"""Cells attacked side by side: one process each, forked from the one that has trained them all."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from art_sensreg.benchmark.engine.attack_job import Job
from art_sensreg.benchmark.results.writing import plain
from art_sensreg.utils.text import describe

Run = dict[str, Any]
Attack = Callable[[Job, Callable[[str], None]], None]
# Seconds after which an idle worker looks whether its parent is alive.
_PATIENCE = 5.0


def attack_side_by_side(
    jobs: Sequence[Job], attack: Attack, workers: int, put: Callable[[Run], None], progress: Callable[[Run, str], None]
) -> None:
    """
    Attack cells in several processes. Every outcome has a seed of its own, so that it does not depend on their number.

    The workers write masks; records go to this process, which alone writes the results. On the CPU only: a GPU cannot
    be used after a fork.

    :param jobs: The cells; their runs are filled in.
    :param attack: Function of a job and of what is called with the name of each attack before it runs.
    :param workers: Number of processes.
    :param put: Called with a run whenever something is stored in it.
    :param progress: Called with a run and the name of each attack that begins.
    """
    # What is attacked on few images is slow, image by image: begun last, all other processes would wait for it.
    waiting = deque(sorted(range(len(jobs)), key=lambda number: jobs[number].cell.points or math.inf))
    busy: dict[Any, int] = {}  # connection to a worker, and the job that it has

    def assign(connection: Any) -> None:
        busy[connection] = waiting.popleft()
        connection.send(busy[connection])

    for _ in range(min(workers, len(jobs))):
        assign(_start(jobs, attack))
    while busy:
        for connection in wait(list(busy)):
            assert isinstance(connection, Connection)
            number = busy[connection]
            run = jobs[number].run
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):  # killed for memory, say
                del busy[connection]
                run.update(status="error", reason="RuntimeError: the process that attacked it died")
                put(run)
                if waiting:
                    assign(_start(jobs, attack))
                continue
            if kind == "progress":
                progress(run, content)
                continue
            run.clear()
            run.update(content)
            put(run)
            if kind == "done":
                del busy[connection]
                if waiting:
                    assign(connection)
                else:
                    connection.close()  # the worker ends with it


def _start(jobs: Sequence[Job], attack: Attack) -> Any:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    context.Process(target=_work, args=(jobs, attack, theirs, ours, os.getpid()), daemon=True).start()
    theirs.close()  # or its end would not be seen
    return ours


def _work(jobs: Sequence[Job], attack: Attack, connection: Any, others: Any, parent: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent says so once, and ends the others
    others.close()
    while True:
        while not connection.poll(_PATIENCE):
            if os.getppid() != parent:
                os._exit(1)
        try:
            job = jobs[connection.recv()]
        except EOFError:
            return

        def tell(kind: str, content: Any) -> None:
            if os.getppid() != parent:
                os._exit(1)  # nobody is left to take it
            # What a plugin has put into a record need not be fit for another process.
            connection.send((kind, plain(content)))

        job.records.deliver = partial(tell, "record")
        try:
            attack(job, partial(tell, "progress"))
        except BaseException as error:  # noqa: BLE001 - told to the parent, which goes on with the other cells
            job.run.update(status="error", reason=describe(error))
        tell("done", job.run)
