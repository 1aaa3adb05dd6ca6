"""Trained defences attacked in parallel: one process each, forked from the one that has trained them all."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from art_sensreg.benchmark.engine.context import TrainedRun
from art_sensreg.utils.text import error_text

Attack = Callable[[TrainedRun, Callable[[str], None]], None]
# Seconds after which an idle worker looks whether its parent is alive.
_PATIENCE = 5.0


def attack_side_by_side(
    runs: Sequence[TrainedRun], attack: Attack, workers: int, progress: Callable[[TrainedRun, str], None]
) -> None:
    """
    Attack in several processes, the outcome of which does not depend on their number: every block of images has a
    seed of its own.

    The workers write masks; records go to this process, which alone writes the results. On the CPU only: a GPU cannot
    be used after a fork.
    """
    # What is attacked on few images is slow, image by image: begun last, all other processes would wait for it.
    waiting = deque(sorted(range(len(runs)), key=lambda number: runs[number].target.points or math.inf))
    busy: dict[Any, int] = {}  # connection to a worker, and the number of the run that it has

    def assign(connection: Any) -> None:
        busy[connection] = waiting.popleft()
        connection.send(busy[connection])

    for _ in range(min(workers, len(runs))):
        assign(_start(runs, attack))
    while busy:
        for connection in wait(list(busy)):
            assert isinstance(connection, Connection)
            run = runs[busy[connection]]
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):  # killed for memory, say
                del busy[connection]
                died = "RuntimeError: the process that attacked it died"
                run.suite.store.put(replace(run.record, status="error", reason=died))
                if waiting:
                    assign(_start(runs, attack))
                continue
            if kind == "progress":
                progress(run, content)
            elif kind == "record":
                run.suite.store.put(content)
            else:
                del busy[connection]
                if waiting:
                    assign(connection)
                else:
                    connection.close()  # the worker ends with it


def _start(runs: Sequence[TrainedRun], attack: Attack) -> Any:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_work, args=(runs, attack, theirs, ours, os.getpid()), daemon=True)
    # Ctrl-C waits: a worker that it reached before it is ignored there would print a traceback.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
    theirs.close()  # or its end would not be seen
    return ours


def _work(runs: Sequence[TrainedRun], attack: Attack, connection: Any, others: Any, parent: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent says so once, and ends the others
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    others.close()

    def tell(kind: str, content: Any) -> None:
        if os.getppid() != parent:
            os._exit(1)  # nobody is left to take it
        connection.send((kind, content))

    while True:
        while not connection.poll(_PATIENCE):
            if os.getppid() != parent:
                os._exit(1)
        try:
            run = runs[connection.recv()]
        except EOFError:
            return
        run.suite.store.deliver = partial(tell, "record")
        try:
            attack(run, partial(tell, "progress"))
        except BaseException as error:  # noqa: BLE001 - told to the parent, which goes on with the others
            tell("record", replace(run.record, status="error", reason=error_text(error)))
        tell("done", None)
