"""What a solver needs for an operator, stated before anything is computed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Memory, disk and products with the operator that a solver will take.

    Attributes:
        memory: Bytes of memory at the peak, beside what one product takes; in each process.
        disk: Bytes on the disk, in each process.
        preparation: Products with the operator (or its adjoint) before the first right-hand side.
        sweeps: Number of times that each row of the operator is computed before the first right-hand side.
        products: Products for each right-hand side, beside those of the steps.
        products_per_step: Products in each step of an iterative solver; 0 for a direct one.
        max_steps: Largest number of steps for one right-hand side; 0 for a direct solver.
        note: One sentence on what decided; empty where there is nothing to say.
    """

    memory: int = 0
    disk: int = 0
    preparation: int = 0
    sweeps: float = 0.0
    products: int = 0
    products_per_step: int = 0
    max_steps: int = 0
    note: str = ""
