"""What pyproject lists is what the tree holds: no package and no data file is left out of an installation."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
TOP = sorted({name.partition(".")[0] for name in SETUPTOOLS["packages"]})


def test_every_package_of_the_tree_is_listed_once():
    found = {".".join(init.parent.relative_to(ROOT).parts) for top in TOP for init in (ROOT / top).rglob("__init__.py")}
    listed = SETUPTOOLS["packages"]
    assert len(set(listed)) == len(listed)
    assert found == set(listed)


def test_no_module_lies_in_a_folder_that_is_no_package():
    strays = [path for top in TOP for path in (ROOT / top).rglob("*.py") if not (path.parent / "__init__.py").exists()]
    assert strays == []


@pytest.mark.parametrize("top", TOP)
def test_every_data_file_is_matched_by_package_data(top):
    globs = SETUPTOOLS["package-data"]
    matched = {
        path for package, patterns in globs.items() for p in patterns for path in (ROOT / package.replace(".", "/")).glob(p)
    }
    data = {
        path
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".nbi", ".nbc") and "__pycache__" not in path.parts
    }
    assert data <= matched


def test_the_lists_name_nothing_that_is_not_there():
    assert all((ROOT / name.replace(".", "/") / "__init__.py").exists() for name in SETUPTOOLS["packages"])
    for package, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            assert list((ROOT / package.replace(".", "/")).glob(pattern)), f"{package}: {pattern}"
