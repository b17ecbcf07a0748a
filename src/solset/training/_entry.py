"""How points that join a training enter its batches."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Entry:
    """The rule by which points that join enter the batches, which the recipe draws as before.

    Each new point joins one batch of every epoch: one that is drawn from the seed and the number of the epoch
    where the recipe shuffles, and the last one where it does not. The order of all others stays, so that a
    new point with factor 0 changes nothing. What is drawn for a point does not depend on those after it.
    """

    seed: int  # Seed of the recipe
    batches: int  # Number of batches of an epoch
    shuffle: bool  # Whether the recipe takes the points in a new order in each epoch

    def at(self, step: int, count: int) -> list[int]:
        """The numbers of the new points that take part in a step."""
        epoch, place = divmod(step, self.batches)
        if not self.shuffle:
            return list(range(count)) if place == self.batches - 1 else []
        generator = torch.Generator().manual_seed(hash((self.seed, epoch)) & (2**63 - 1))
        drawn = torch.randint(self.batches, (count,), generator=generator)
        return (drawn == place).nonzero().flatten().tolist()
