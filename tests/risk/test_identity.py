"""The bytes by which stored results are bound to their problem."""

import pytest
import torch

from solset.risk._identity import digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bfloat16, torch.bool])
def test_entries_that_were_expanded_have_the_digest_of_their_copies(dtype: torch.dtype):
    one = torch.ones((), dtype=dtype)
    for shape in ((1,), (3,), (1, 1), (2, 3), (0,), ()):
        view = one.expand(shape)
        assert digest([view]) == digest([view.clone(memory_format=torch.contiguous_format)])
