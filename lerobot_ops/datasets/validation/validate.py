"""Validation: everything that is wrong with a dataset, found in one pass.

Broken datasets are the normal case here: what cannot be read becomes a finding, and the checks that need it are left
out. The checks and their meaning are in `checks.CHECKS`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from lerobot_ops.config import Config
from lerobot_ops.datasets.validation.checks import CHECKS, SEVERITIES, Finding, Severity, counted, listed
from lerobot_ops.datasets.validation.evidence import Evidence, gather
from lerobot_ops.datasets.validation.features import check_features
from lerobot_ops.datasets.validation.histograms import check_histograms
from lerobot_ops.datasets.validation.images import check_images
from lerobot_ops.datasets.validation.motion import check_motion
from lerobot_ops.datasets.validation.pictures import Decode
from lerobot_ops.datasets.validation.quality import check_quality
from lerobot_ops.datasets.validation.statistics import check_statistics
from lerobot_ops.datasets.validation.structure import check_structure
from lerobot_ops.datasets.validation.tables import check_tables
from lerobot_ops.datasets.validation.video import check_videos
from lerobot_ops.errors import DatasetError, did_you_mean

__all__ = ["CHECKS", "FailOn", "Finding", "ValidateConfig", "ValidationReport", "validate"]

FailOn = Literal["error", "warning", "info", "never"]


class ValidateConfig(Config):
    """What a validation looks at, and when a dataset fails it."""

    fail_on: FailOn = "error"
    """The least severity that makes a dataset fail."""
    skip: list[str] = Field(default_factory=list)
    """Ids of checks to leave out."""
    decode: Decode = "ends"
    """Which frames are decoded: `ends` the first, the last and three between of every episode, `all`, or `none`."""
    max_per_check: int = Field(default=20, ge=1)
    """Findings of one check that are reported one by one; the others are counted."""

    @field_validator("skip")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in CHECKS:
                raise ValueError(f"no check is called {name!r}; {did_you_mean(name, CHECKS)}")
        return value


class ValidationReport(Config):
    """What a validation found."""

    episodes: int
    """Episodes that the dataset holds: rows of its episodes table, or what info.json says when that is unreadable."""
    frames: int
    """Frames that could be read; what info.json says when none could."""
    findings: list[Finding]
    """Errors first, then warnings, then infos; within those in the order of `checks.CHECKS`."""
    fail_on: FailOn = "error"
    ok: bool
    """Whether no finding is as severe as `fail_on`."""

    def at_least(self, severity: Severity) -> list[Finding]:
        """The findings that are at least as severe as `severity`."""
        return [found for found in self.findings if SEVERITIES.index(found.severity) <= SEVERITIES.index(severity)]

    def raise_if(self, severity: FailOn | None = None) -> None:
        """Raise DatasetError that lists the findings as severe as `severity` (without one: as `fail_on` says)."""
        severity = severity or self.fail_on
        bad = [] if severity == "never" else self.at_least(severity)
        if bad:
            lines = [f"  {found.severity} {found.check}: {found.message} ({found.place})" for found in bad[:10]]
            more = [f"  … and {len(bad) - 10} more"] if len(bad) > 10 else []
            problem = f"the dataset fails validation with {counted(len(bad), 'finding')}"
            raise DatasetError("\n".join([problem, *lines, *more]), fix=bad[0].fix)

    def markdown(self) -> str:
        """The report as a Markdown document."""
        counts = Counter(found.severity for found in self.findings)
        found = ", ".join(counted(counts[severity], severity) for severity in SEVERITIES if counts[severity])
        verdict = "passes" if self.ok else "fails"
        head = f"**The dataset {verdict}**: {counted(self.episodes, 'episode')}, {counted(self.frames, 'frame')}; "
        lines = [head + (found or "nothing found") + ".", ""]
        if self.findings:
            lines += ["| severity | check | finding | place | episodes | what to do |", "|-|-|-|-|-|-|"]
            lines += [_row(found) for found in self.findings]
        return "\n".join(lines).rstrip() + "\n"


def validate(root: Path, *, config: ValidateConfig | None = None) -> ValidationReport:
    """Check the dataset in `root`, all checks, all findings.

    Raises DatasetError only when `root` is not a directory; whatever is wrong inside is in the report.
    """
    root, config = Path(root), config or ValidateConfig()
    if not root.is_dir():
        raise DatasetError("there is no dataset here", file=root, fix="give the folder that holds meta/ and data/")
    evidence, unreadable = gather(root)
    findings = [*unreadable, *(_checked(evidence, config) if evidence else ())]
    findings = [_placeless(found, root) for found in findings if found.check not in config.skip]
    findings = list(_capped(findings, config.max_per_check))
    findings.sort(key=lambda found: (SEVERITIES.index(found.severity), list(CHECKS).index(found.check)))
    episodes = frames = 0
    if evidence:
        episodes, frames = evidence.info.total_episodes, sum(file.table.num_rows for file in evidence.files)
        episodes = episodes if evidence.episodes is None else evidence.episodes.num_rows
        frames = frames if evidence.files else evidence.info.total_frames
    worst = SEVERITIES.index(config.fail_on) if config.fail_on != "never" else -1
    ok = all(SEVERITIES.index(found.severity) > worst for found in findings)
    return ValidationReport(episodes=episodes, frames=frames, findings=findings, fail_on=config.fail_on, ok=ok)


def _checked(evidence: Evidence, config: ValidateConfig) -> Iterator[Finding]:
    yield from check_tables(evidence)
    yield from check_structure(evidence)
    yield from check_videos(evidence, config.decode)
    yield from check_images(evidence, config.decode)
    yield from check_features(evidence)
    yield from check_statistics(evidence)
    yield from check_histograms(evidence)
    yield from check_quality(evidence)
    yield from check_motion(evidence)


def _placeless(found: Finding, root: Path) -> Finding:
    """The finding without the path of the dataset, which other libraries put into their messages."""
    message, fix = found.message.replace(f"{root}/", ""), found.fix.replace(str(root), "DATASET")
    return found.model_copy(update={"message": message, "fix": fix})


def _capped(findings: Iterable[Finding], limit: int) -> Iterator[Finding]:
    """The first `limit` findings of every check and severity; what is beyond becomes one finding that counts them."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for found in findings:
        groups.setdefault((found.check, found.severity), []).append(found)
    for group in groups.values():
        yield from group[:limit]
        if len(group) > limit:
            rest = group[limit:]
            episodes = sorted({episode for found in rest for episode in found.episodes})
            message = (
                f"{counted(len(rest), 'more finding')} of this check, in {listed({found.place: 0 for found in rest})}"
            )
            yield rest[0].model_copy(update={"message": message, "episodes": episodes})


def _row(found: Finding) -> str:
    cells = [
        found.severity,
        f"`{found.check}`",
        found.message,
        f"`{found.place}`",
        listed(found.episodes, 10),
        found.fix,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
