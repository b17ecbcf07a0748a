"""Images of held activations' gradients: those of a place nearby serve, and no more is kept than is held."""

import torch
from torch import Tensor

from solset.linalg import Counted, DenseOperator
from solset.paths._nearby import SAME, Images

ROWS = torch.linalg.qr(torch.randn(30, 7, generator=torch.Generator().manual_seed(0)).double())[0].T


def gradients(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 30, generator=torch.Generator().manual_seed(seed)).double()


def test_an_image_is_computed_once_and_serves_for_as_long_as_its_gradient_does():
    rows, given = Counted(DenseOperator(ROWS)), gradients(3)
    images = Images(rows)
    near = SAME
    for factor, products in ((1.0, 3), (1 + 0.9 * near, 3), (1 + 1.1 * near, 6)):
        nearby, found = images.near((4, 9, 2), factor * given)
        assert rows.products == products
        torch.testing.assert_close(found, ROWS @ nearby.T)
        assert bool(((nearby - factor * given).norm(dim=1) <= near * factor * given.norm(dim=1)).all())


def test_one_more_activation_costs_one_more_product_and_order_is_that_of_the_question():
    rows, given = Counted(DenseOperator(ROWS)), gradients(3)
    images = Images(rows)
    images.near((4, 9), given[:2])
    near, found = images.near((2, 9, 4), given[[2, 1, 0]])
    assert rows.products == 3
    assert torch.equal(near, given[[2, 1, 0]])
    torch.testing.assert_close(found, ROWS @ near.T)


def test_what_is_no_longer_held_is_forgotten_and_nothing_keeps_a_whole_block_alive():
    images, given = Images(DenseOperator(ROWS)), gradients(3)
    images.near((4, 9, 2), given)
    images.near((9,), given[1:2])
    assert list(images._pairs) == [9]
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in images._pairs[9])


def test_none_held_is_none():
    near, found = Images(DenseOperator(ROWS)).near((), torch.empty(0, 30).double())
    assert (near.shape, found.shape) == ((0, 30), (7, 0))
