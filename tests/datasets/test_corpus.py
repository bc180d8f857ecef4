"""The corpus of broken datasets: each is found under the right id, and no damage ends in a traceback."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from corpus import BREAKAGES, good_datasets

from lerobot_ops.datasets.validation.checks import CHECKS
from lerobot_ops.datasets.validation.validate import ValidateConfig, validate


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> dict[str, Path]:
    return dict(good_datasets(tmp_path_factory.mktemp("good")))


def test_good_datasets_have_no_findings(good):
    found = {name: validate(root).findings for name, root in good.items()}
    recording = [(each.check, each.severity) for each in found.pop("unfinished")]
    assert not any(found.values()), found
    assert recording == [("unfinished-recording", "warning")]


@pytest.mark.parametrize("what", BREAKAGES)
def test_finds(what, good, tmp_path):
    breakage = BREAKAGES[what]
    broken = shutil.copytree(good[breakage.base], tmp_path / "broken")
    breakage.mutate(broken)
    report = validate(broken)
    right = [found for found in report.findings if (found.check, found.severity) == (breakage.check, breakage.severity)]
    assert any(breakage.message in found.message and found.episodes == breakage.episodes for found in right), (
        f"{breakage.said}\n{report.markdown()}"
    )
    assert report.ok == (not any(found.severity == "error" for found in report.findings))
    if breakage.severity != "error":
        assert report.ok, f"a dataset that readers can read has no errors\n{report.markdown()}"
    for found in report.findings:
        assert found.place, found
        assert found.fix, found
        assert str(broken) not in found.model_dump_json(), "a report does not depend on where the dataset is"


def test_every_check_has_a_dataset_that_fails_it():
    elsewhere = {"video-keyframes"}  # test_validate.py: it takes a video of its own
    assert {breakage.check for breakage in BREAKAGES.values()} | elsewhere == set(CHECKS)
    assert len(BREAKAGES) >= 60


def test_the_documentation_lists_every_check():
    page = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
    listed = [f"| `{name}` | {check.severity} | {check.promise} |" for name, check in CHECKS.items()]
    assert [line for line in listed if line not in page] == []


@pytest.mark.parametrize("base", ["recorded", "annotated", "unfinished"])
def test_no_damage_ends_in_a_traceback(base, good, tmp_path):
    """Every file in turn is cut or garbled at places that a seed chooses."""
    root = shutil.copytree(good[base], tmp_path / "damaged")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    for name in names:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        original = (root / name).read_bytes()
        for _ in range(8 if base == "recorded" else 3):
            content = bytearray(original)
            if rng.random() < 0.3:
                content = content[: rng.integers(len(content))]
            else:
                for place in rng.integers(len(content), size=rng.integers(1, 20)):
                    content[place] = rng.integers(256)
            (root / name).write_bytes(content)
            validate(root, config=ValidateConfig(decode="all" if rng.random() < 0.3 else "ends"))
        (root / name).write_bytes(original)
