"""
Pytest plugin: the emulated device stands for CUDA.

`python -m pytest -p tests.device.plugin --assert=plain tests` runs the tests of this folder and those marked `gpu`;
with `--device-all` all that are collected. It needs a process of its own: what is imported afterwards reads `cuda` as
the emulated device. `--assert=plain` because pytest's own importer would pass that by.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent
_missing = ""
ACTIVE = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device-all", action="store_true", help="on the emulated device run all tests, not only its own")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before the first `conftest.py`, which imports the package."""
    global _missing, ACTIVE
    ACTIVE = True
    try:
        from tests.device.emulated import install

        install()
    except (ImportError, AttributeError) as error:
        _missing = f"this version of torch cannot emulate a device: {error}"
        return
    from tests.device.translation import as_cuda

    as_cuda("art_sensreg", "art", "pyautoattack", "tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _missing:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=_missing))
    if config.getoption("--device-all"):
        return
    ours = [item for item in items if item.get_closest_marker("gpu") or _FOLDER in item.path.parents]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours
