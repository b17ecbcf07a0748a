"""Fixtures of the tests of the risk."""

import pytest
import torch


@pytest.fixture
def seeded():
    """Random numbers of PyTorch from one seed, put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
