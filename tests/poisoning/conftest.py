"""What the tests of the analyses share."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def as_users_call() -> Iterator[None]:
    """Without the type checks of the test run, so that bad values reach the library's own."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
