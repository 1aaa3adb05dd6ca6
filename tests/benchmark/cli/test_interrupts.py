"""A Ctrl-C that is dropped or caught ends the program all the same."""

from __future__ import annotations

import signal
import sys
import threading
import time
import weakref
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from art_sensreg.benchmark.cli.console import INTERRUPTED, run_program
from art_sensreg.benchmark.cli.interrupts import interrupts_never_lost


class Thing:
    pass


class WithDestructor:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def in_a_weak_reference() -> None:
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    assert reference() is None


def in_a_destructor() -> None:
    WithDestructor()


def in_an_import_that_is_tried() -> None:
    with suppress(BaseException):  # packages have `except:` there
        signal.raise_signal(signal.SIGINT)


def in_one_import_after_the_other() -> None:
    in_an_import_that_is_tried()
    with suppress(BaseException):
        time.sleep(60)


def turned_into_another_error() -> None:
    with suppress(ImportError):
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:
            raise ImportError("cannot be imported") from error


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    "interrupt",
    [
        in_a_weak_reference,
        in_a_destructor,
        in_an_import_that_is_tried,
        in_one_import_after_the_other,
        turned_into_another_error,
    ],
)
def test_what_was_lost_is_raised_again_and_said_once(interrupt, capfd, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # that of the tests writes nothing
    ends = []

    def main() -> int:
        interrupt()
        time.sleep(60)
        ends.append("not interrupted")
        return 0

    assert run_program(main) == INTERRUPTED
    assert not ends
    assert capfd.readouterr().err == "interrupted; what was written is kept\n"


@pytest.mark.usefixtures("interruptible")
def test_while_it_is_being_handled_it_is_not_raised_again():
    done = []

    def clean_up() -> None:
        with suppress(OSError):
            try:
                raise OSError("while cleaning up")
            finally:
                time.sleep(0.3)
        time.sleep(0.3)
        done.append("cleaned up")

    @interrupts_never_lost()
    def run() -> None:
        with ExitStack() as stack:
            stack.callback(clean_up)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done == ["cleaned up"]


@pytest.mark.usefixtures("interruptible")
def test_in_the_background_of_a_shell_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_never_lost():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.usefixtures("interruptible")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_dropped_errors_are_reported_as_ever(monkeypatch):
    class Fails:
        def __del__(self) -> None:
            raise ValueError("in a destructor")

    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: reported.append(str(dropped.exc_value)))
    with interrupts_never_lost():
        Fails()
    assert reported == ["in a destructor"]


@pytest.mark.usefixtures("interruptible")
def test_everything_is_put_back(request):
    request.addfinalizer(partial(signal.signal, signal.SIGALRM, signal.getsignal(signal.SIGALRM)))
    signal.signal(signal.SIGALRM, lambda *_: None)
    before = (sys.unraisablehook, signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT))
    with pytest.raises(ValueError, match="own"), interrupts_never_lost():
        raise ValueError("own")
    after = (sys.unraisablehook, signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT))
    assert after == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_another_thread_nothing_is_changed():
    inside = []

    def work() -> None:
        with interrupts_never_lost():
            inside.append(sys.unraisablehook)

    before = sys.unraisablehook
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
