"""Every kind of result that people look at has its figure; others are refused by name."""

import pytest
import torch
from torch import nn

from solset import Move, Problem, audit, follow_path
from solset.attribution import Attribution
from solset.plotting import figure_bytes, plot
from support.commands import SOURCE


@pytest.fixture(scope="module")
def problem() -> Problem:
    namespace: dict = {}
    exec(SOURCE, namespace)
    return namespace["decayed"]()


def drawn(figure) -> bool:
    return figure_bytes(figure, "png").startswith(b"\x89PNG")


def test_an_audit_is_drawn_as_bars(problem):
    figure = plot(audit(problem), top=3)
    assert drawn(figure)
    assert len(figure.axes[0].get_yticklabels()) == 3


def test_a_course_is_drawn_against_the_share_of_the_perturbation(problem):
    course = follow_path(problem, Move([0], torch.full((1, 2), 0.01, dtype=torch.float64)))
    figure = plot(course, title="Course")
    assert drawn(figure)
    assert figure.axes[0].get_title(loc="left") == "Course"


def test_other_results_are_refused_by_name():
    with pytest.raises(TypeError, match=r"`result` must be an audit, .* or a landscape; got Linear\."):
        plot(nn.Linear(1, 1))


def test_an_attribution_ranks_the_points_of_one_goal():
    weights = torch.tensor([0.5, 0.0, -2.0, 0.1])
    figure = Attribution(1.0, weights, None, None, names=list("abcd")).plot(top=2)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["c (+)", "a (-)"]
    for other in (weights.expand(3, 4), None, 0 * weights):
        with pytest.raises(ValueError, match="an attribution of one goal to points"):
            Attribution(1.0, other, None, None).plot()
