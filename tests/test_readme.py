"""The code that README and documentation show runs as it stands, and prints what they say it prints."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/quickstart.md",
    "docs/results.md",
    "docs/changes.md",
    "docs/choosing.md",
    "docs/own_model.md",
    "docs/attribution.md",
    "docs/trainings.md",
    "docs/removal.md",
    "docs/compare.md",
    "docs/batches.md",
    "docs/modulus.md",
    "docs/scale.md",
    "docs/large_perturbations.md",
    "docs/poisoning.md",
    "docs/departures.md",
    "docs/which_map.md",
)
BLOCK = re.compile(r"^```(python|text|\{raw\} html)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The code blocks of a page with their languages, in order."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In one namespace, from top to bottom; warnings are errors by the settings of pytest.
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {"__name__": "page"}
    printed = ""
    for language, content in blocks(page):
        if language == "python":
            assert not printed, f"{page} does not show what it printed: {printed}"
            exec(compile(content, page, "exec"), namespace)
            printed = capsys.readouterr().out
        else:
            assert printed == content
            printed = ""
    assert not printed, f"{page} does not show what it printed: {printed}"


def test_the_first_code_of_the_readme_has_ten_lines() -> None:
    language, code = blocks("README.md")[0]
    assert language == "python"
    assert sum(bool(line.strip()) for line in code.splitlines()) == 10


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=str)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_public_name_is_in_the_readme() -> None:
    import solset

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in solset.__all__ if f"`{name}`" not in text] == []
