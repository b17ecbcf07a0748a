"""The graphical derivative of a solution map (Theorem 1)."""

import warnings
from pathlib import Path

from torch import Tensor

from solset.derivatives._linearisation import Linearisation, Qualification
from solset.derivatives._premises import Premises
from solset.derivatives._selection import RowCheck, Selection
from solset.errors import SolsetWarning, bad_value
from solset.sets import AffineSet
from solset.solvers import Solver


class GraphicalDerivative:
    """The graphical derivative ``DS(x̄|w̄)``: from a data direction to the set of weight directions.

    ``DS(x̄|w̄)(Δx) = {v : A v + C Δx = 0}`` (Theorem 1; Definition 3), with equality under the
    qualification that :attr:`qualification` reports.

    Where only some rows of a large constraint are in use, the first direction is solved and checked on all
    rows at once, and rows are added until the check holds; further directions use the same rows, and
    :meth:`verify` checks them too.

    Args:
        linearisation: The pair ``(A, C)`` and its solver, or a selection of its rows.
    """

    def __init__(self, linearisation: Linearisation | Selection) -> None:
        self._source = linearisation
        self._check: RowCheck | None = None

    def __repr__(self) -> str:
        """The map, the rows, the solver and the sizes in one line."""
        return f"GraphicalDerivative({self.linearisation.headline})"

    @property
    def linearisation(self) -> Linearisation:
        """The pair ``(A, C)``, on the rows in use."""
        return self._source.linearisation if isinstance(self._source, Selection) else self._source

    def __call__(self, dx: Tensor) -> AffineSet:
        """The affine set of weight directions ``v`` with ``A v + C Δx = 0`` for ``Δx = dx``.

        Args:
            dx: Change of the moved points, shape ``(|K|, *input)``, in input units after preprocessing.

        Cost: one product with ``C``; nothing is solved yet. The first direction on a selection of rows is
        solved and checked at once.
        """
        flat = self.linearisation.data_space.flatten(dx)
        if isinstance(self._source, Selection) and self._check is None and bool(flat.any()):
            self._check = self._source.verify(flat)
        line = self.linearisation
        for failure in line.premises.failures:
            warnings.warn(failure, SolsetWarning, stacklevel=2)
        return line.answers(-line.push(flat))

    def verify(self, dx: Tensor) -> RowCheck:
        """Checks the rows in use against all rows for this data direction; adds rows until it holds.

        A warning is given if the check fails with the largest number of rows that is allowed.

        Args:
            dx: As for a call.

        Raises:
            ValueError: If all rows are in use already: then residuals are exact and nothing is left out.

        Cost: a solve and one product with the Jacobian of all points, for each time that rows are added.
        """
        cure = "No rows are left out: the residual of a solution is over all of them."
        self._check = self._selection(cure).verify(self.linearisation.data_space.flatten(dx))
        return self._check

    def save(self, folder: Path | str) -> None:
        """Writes the rows and their Gram matrix to disk, for :meth:`Problem.load_derivative`.

        Args:
            folder: Path of a new folder, or of one without a stored derivative.

        Raises:
            ValueError: If all rows are in use, or the folder holds a derivative already.
            OSError: If the disk has no room; the message says how much is needed.

        Cost: the rows, if they were not computed yet; ``m·p`` numbers on the disk.
        """
        cure = "Take the interpolating map with rows=InformativeRows() that allow enough of them."
        self._selection(cure).save(Path(folder))

    def _selection(self, cure: str) -> Selection:
        """The selection of rows; refused where all rows are in use."""
        if isinstance(self._source, Selection):
            return self._source
        got = f"one that works on its whole constraint ({self.reason})"
        raise bad_value("rows", expected="a derivative on a selection of rows", got=got, cure=cure)

    @property
    def check(self) -> RowCheck | None:
        """The latest check of the rows in use; ``None`` if all are, or before the first direction."""
        return self._check

    @property
    def plan(self) -> str:
        """One sentence with the rows in use, their bytes and gradients; empty if all rows are in use."""
        return self._source.plan if isinstance(self._source, Selection) else ""

    @property
    def optimality(self) -> str:
        """The name of the optimality map that was linearised."""
        return self.linearisation.map.name

    @property
    def keeps_outputs(self) -> bool:
        """Whether solutions are the weights that keep all training outputs."""
        return self.linearisation.map.keeps_outputs

    @property
    def solver(self) -> Solver:
        """The solver of the systems with ``A``."""
        return self.linearisation.constraint.solver

    @property
    def rank(self) -> int | None:
        """The numerical rank of ``A``; ``None`` where the solver does not see the spectrum."""
        return self.linearisation.rank

    @property
    def rows(self) -> int:
        """The number of rows of ``A`` that are in use."""
        return self.linearisation.rows

    @property
    def reason(self) -> str:
        """One sentence that says why this map was taken."""
        return self.linearisation.reason

    @property
    def premises(self) -> Premises:
        """The premises under which the formula set is the derivative, with what their checks found."""
        return self.linearisation.premises

    @property
    def qualification(self) -> Qualification:
        """Whether the formula set was verified to equal the derivative."""
        return self.linearisation.qualification
