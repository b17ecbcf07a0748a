"""The page: complete, alone, safe and the same every time."""

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from solset.plotting import scatter_agreement
from solset.reports._report import write_report
from solset.reports._report_parts import Column, Finding, Picture, Report, Section, Table
from solset.reports._run_folder import RunFolder
from solset.storage import Identity

HOSTILE = "</style><script>alert('x')</script>\"&{{ 7 * 7 }}"
ROWS = ({"point": 3, "loss": 1.23e-7, "ok": True},)
COLUMNS = (Column("point", "Point"), Column("loss", "Loss", ".2g", "nats"), Column("ok", "Fitted"))


def with_identity(run: RunFolder, settings, versions) -> RunFolder:
    """The run folder as a run with these settings and versions sees it."""
    return replace(run, identity=Identity(settings, versions))


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    run = RunFolder.open(tmp_path / "run", settings={"b": 0.1, "a": [1, 2]})
    run = with_identity(run, run.settings, {"torch": "2.6"})
    run.write_figure("agreement", scatter_agreement([1.0, 2.0], [1.0, 2.5]))
    return run


def report(rows=ROWS, **changes) -> Report:
    section = Section(
        "Losses",
        "Lower is better.",
        [
            "A note.",
            Table("Loss by point", COLUMNS, list(rows)),
            Picture("agreement", "Predictions and truth.", "Points near the diagonal."),
        ],
    )
    whole = Report(
        title="A run",
        question="Does it move?",
        summary=(Finding("Modulus", 0.4, "Weight units per input unit."),),
        sections=(section,),
        warnings=("Not fitted.",),
    )
    return replace(whole, **changes)


class Outline(HTMLParser):
    """Tags that are open at the end, and all tags with their attributes and text."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def page_of(folder: RunFolder, content: Report) -> str:
    return write_report(folder, content).read_text(encoding="utf-8")


def test_the_page_holds_everything_it_was_given(folder):
    page = Outline(page_of(folder, report()))
    assert page.open == []
    shown = " ".join(text for _, text in page.texts)
    pieces = (
        *("A run", "Does it move?", "Not fitted.", "Modulus", "0.4", "Weight units per input unit."),
        *("Lower is better.", "Loss by point", "1.2×10⁻⁷", "nats", "yes", "A note."),
        *("Predictions and truth.", "[1, 2]", "2.6"),
    )
    for piece in pieces:
        assert piece in shown, piece
    assert page.text("h1") == ["A run"]
    assert page.text("h2") == ["Summary", "Losses", "To run it again"]


def test_the_page_is_the_same_byte_for_byte(folder):
    first = write_report(folder, report()).read_bytes()
    reordered = with_identity(folder, {"a": [1, 2], "b": 0.1}, folder.versions)
    assert write_report(reordered, report()).read_bytes() == first
    assert write_report(folder, report(title="Another")).read_bytes() != first


def test_the_page_asks_nobody_for_anything(folder):
    page = page_of(folder, report())
    without_data = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert "://" not in without_data
    assert "url(" not in without_data
    assert "@import" not in without_data
    tags = {name for name, _ in Outline(page).tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    policy = [tag.get("content") for tag in Outline(page).all("meta") if "http-equiv" in tag]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_figure_is_in_the_page_with_its_size_and_alternative(folder):
    image = Outline(page_of(folder, report())).all("img")[0]
    start, data = str(image["src"]).split(",")
    assert start == "data:image/png;base64"
    assert base64.b64decode(data) == (folder.path / "agreement.png").read_bytes()
    assert image["alt"] == "Points near the diagonal."
    # 5.6 by 5 inches at the 96 dots per inch of a page
    assert (image["width"], image["height"]) == ("538", "480")


def test_tables_can_be_read_aloud_and_reached_by_keyboard(folder):
    page = Outline(page_of(folder, report()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for region in [*page.all("section"), *(tag for tag in page.all("div") if tag.get("role") == "region")]:
        assert region["aria-labelledby"] in ids
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert all(heading["scope"] in {"col", "row"} for heading in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_numbers_stand_right_and_words_left(folder):
    rows = [{"point": "a", "loss": 1.0, "ok": True}, {"point": "b", "loss": None, "ok": False}]
    page = Outline(page_of(folder, report(rows)))
    assert [cell.get("class") for cell in page.all("td")[:6]] == [None, "number", None] * 2


def test_values_read_as_in_print(folder):
    columns = tuple(Column(key, key) for key in "abcdefg")
    row = {
        "a": None,
        "b": math.nan,
        "c": math.inf,
        "d": -2.5,
        "e": torch.tensor(0.25),
        "f": np.int64(7),
        "g": "text",
    }
    section = Section("Values", "As they are.", [Table("Values", columns, [row])])
    page = Outline(page_of(folder, report(sections=(section,))))
    assert page.text("td")[:7] == ["–", "NaN", "∞", "−2.5", "0.25", "7", "text"]


def test_hostile_text_stays_text(folder):
    hostile = Section(
        HOSTILE,
        HOSTILE,
        [
            Table(HOSTILE, (Column("k", HOSTILE, unit=HOSTILE),), [{"k": HOSTILE}]),
            Picture("agreement", HOSTILE, HOSTILE),
            HOSTILE,
        ],
    )
    content = Report(
        title=HOSTILE,
        question=HOSTILE,
        summary=(Finding(HOSTILE, HOSTILE, HOSTILE),),
        sections=(hostile,),
        warnings=(HOSTILE, HOSTILE),
    )
    text = page_of(with_identity(folder, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}), content)
    page = Outline(text)
    assert "<script" not in text
    assert ">49<" not in text
    assert text.count("</style>") == 1
    assert page.text("h1") == [HOSTILE]
    assert page.all("img")[0]["alt"] == HOSTILE
    assert page.open == []


def test_a_long_table_scrolls_and_says_so(folder):
    def rows(count):
        return [{"point": place, "loss": 1.0, "ok": True} for place in range(count)]

    long, short = page_of(folder, report(rows(40))), page_of(folder, report(rows(3)))
    assert "(40 rows; scroll for the rest)" in long
    assert 'class="scroll long"' in long
    assert "scroll for the rest" not in short
    assert 'class="scroll long"' not in short


def test_tables_and_figures_are_numbered_through(folder):
    one = report().sections[0]
    page = Outline(page_of(folder, report(sections=(one, replace(one, parts=[*one.parts, *one.pictures])))))
    bold = page.text("b")
    assert bold == ["Figure 1.", "Table 1.", "Figure 2.", "Figure 3.", "Table 2."]


def test_an_empty_report_is_a_page_without_empty_parts(folder):
    nameless = with_identity(folder, {}, {})
    page = Outline(page_of(nameless, Report("Nothing", "Was anything asked?")))
    assert page.text("h1") == ["Nothing"]
    assert page.all("section") == []
    assert page.all("aside") == []


def test_a_table_without_rows_keeps_its_head(folder):
    page = Outline(page_of(folder, report(rows=())))
    assert "Fitted" in page.text("th")


def test_a_missing_figure_is_named(folder):
    section = Section("S", "M", [Picture("lost", "c", "a")])
    with pytest.raises(ValueError, match="'lost'.*write_figure"):
        write_report(folder, report(sections=(section,)))
    assert not folder.has("report.html")


def test_a_missing_column_is_named(folder):
    with pytest.raises(ValueError, match="key 'loss'.*in row 0"):
        write_report(folder, report(rows=[{"point": 1, "ok": True}]))


def test_a_format_that_does_not_fit_is_named(folder):
    finding = Finding("Modulus", 0.4, format="d")
    with pytest.raises(ValueError, match="number 0.4 of 'Modulus'"):
        write_report(folder, report(summary=(finding,)))
