"""`pulsebms twin compare`: the table, the verdict as an exit code, the picture; on a real DFN."""

import pytest
from typer.testing import CliRunner

from serving.cli.twin_cli import twin_app

pytestmark = pytest.mark.timeout(300)


def compare(*arguments):
    return CliRunner().invoke(twin_app, ["compare", *arguments], env={"COLUMNS": "160"})


@pytest.mark.parametrize(
    ("chemistry", "code", "verdict"),
    [
        ("LCO", 0, "accepted"),
        # The coldest of its days alone is beyond the figure that all of them together keep.
        pytest.param("NMC", 1, "NOT accepted", marks=pytest.mark.full),
    ],
)
def test_a_day_is_compared_judged_and_drawn(tmp_path, chemistry, code, verdict):
    picture = tmp_path / "days.png"
    result = compare("--chemistry", chemistry, "--days", "1", "--no-compiled", "--plot", str(picture))
    assert result.exit_code == code, result.output
    lines = result.output.splitlines()
    assert verdict in lines
    # The row's name may wrap: how wide the table is depends on where it is printed.
    assert any("accepted" in line and "5 mV" in line and "0.1 %" in line and "0.2 K" in line for line in lines)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_help_names_the_default_of_the_picture_and_a_wrong_chemistry_is_refused():
    assert "twin_CHEMISTRY.png" in " ".join(compare("--help").output.split())
    assert compare("--chemistry", "NIMH").exit_code == 2
