"""The README's table of hosts says what the tests showed, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hosts import matrix

if TYPE_CHECKING:
    from pathlib import Path

SHOWN: list[tuple[matrix.Claim, bool]] = [
    (("Notebook 7", "grows", ""), True),
    (("Notebook 7", "grows", ""), True),
    (("Notebook 7", "keys", ""), True),
    (("Notebook 7", "keys", ""), False),
    (("Voila", "busy", "a running cell holds messages up"), True),
    (("nbconvert", "saved", "yes: by `explorer.snapshot()`"), True),
    (("nbconvert", "folds", "yes: by `explorer.snapshot()`"), True),
]


def cells(made: str, claim: str) -> dict[str, str]:
    """Return one line of a table by host, whatever its version."""
    lines = [line.strip("| ").split(" | ") for line in made.splitlines() if line.startswith("| ")]
    (found,) = [line for line in lines if line[0] == matrix.CLAIMS[claim]]
    return dict(zip(matrix.HOSTS, found[1:], strict=False))


def test_a_tick_stands_where_every_test_of_a_claim_passed() -> None:
    made = matrix.table(SHOWN)
    assert cells(made, "grows")["Notebook 7"].strip() == "✓"
    assert cells(made, "grows").get("Voila", "").strip() == ""
    assert cells(made, "keys")["Notebook 7"].strip() == "failed"
    assert cells(made, "busy")["Voila"].strip() == "no (1)"
    assert cells(made, "saved")["nbconvert"].strip() == "✓ (2)"
    assert cells(made, "folds")["nbconvert"].strip() == "✓ (2)"
    assert "(1) a running cell holds messages up. (2) by `explorer.snapshot()`.\n" in made


def test_the_readme_is_compared_whatever_the_versions(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- hosts -->\n<!-- /hosts -->\nafter\n", encoding="utf-8")
    made = matrix.table(SHOWN)
    assert not matrix.stands_in(readme, made)
    matrix.write(readme, made)
    assert matrix.stands_in(readme, made)
    assert matrix.stands_in(readme, made.replace("Notebook 7", "Notebook 8"))
    assert not matrix.stands_in(readme, made.replace("Notebook 7", "Notepad 7"))
    assert not matrix.stands_in(readme, made.replace("Voila", "Viola", 1))
    assert not matrix.stands_in(readme, matrix.table(SHOWN[1:3]))
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- hosts -->\n| |")
    assert text.endswith("\n<!-- /hosts -->\nafter\n")


@pytest.mark.parametrize(
    "mark",
    [pytest.mark.host("Notebook 9", "grows"), pytest.mark.host("Voila", flies="it has no wings")],
)
def test_a_claim_that_the_table_has_no_place_for_is_an_error(
    mark: pytest.MarkDecorator, request: pytest.FixtureRequest
) -> None:
    request.node.add_marker(mark)
    with pytest.raises(ValueError, match=r"has no '(Notebook 9|Voila)'"):
        matrix.claims(request.node)
