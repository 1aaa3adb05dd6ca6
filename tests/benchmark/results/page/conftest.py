"""One page for all tests that look at it."""

import pytest

from tests.support.pages import written_page


@pytest.fixture(scope="session")
def full_page(tmp_path_factory):
    return written_page(tmp_path_factory.mktemp("page") / "run")
