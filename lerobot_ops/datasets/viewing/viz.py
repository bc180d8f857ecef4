"""`lerobot-ops viz`: an episode to look at, as one HTML file that needs nothing else, or in Rerun.

The page plays the videos of all cameras, cut out as packets, over the plots of states, actions and signals on the same
time line. The same dataset and episode give the same bytes.
"""

import base64
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.config import Config
from lerobot_ops.datasets.remote import local_root, repository_at
from lerobot_ops.datasets.validation.checks import Finding
from lerobot_ops.datasets.viewing.clips import Clip, make_clip
from lerobot_ops.datasets.viewing.content import (
    DATASET_COLUMNS,
    EPISODE_COLUMNS,
    Group,
    facts,
    plot_groups,
    statistics_tables,
)
from lerobot_ops.datasets.viewing.episode import EpisodeView, chosen_cameras, load_episode, notes
from lerobot_ops.datasets.viewing.rerun import log_episode
from lerobot_ops.errors import ArtifactError


class VizConfig(Config):
    """What to look at, and how."""

    root: Path
    """The dataset: a directory, or OWNER/NAME on the Hub, of which only this episode's files are fetched."""
    episode: int = Field(default=0, ge=0)
    output: Path | None = None
    """The file to write; NAME_episode_N.html in the working directory. With `rerun`: an .rrd instead of the viewer."""
    mode: Literal["html", "rerun"] = "html"
    """A page for every browser, or Rerun (pip install 'lerobot-ops[viz]')."""
    cameras: list[str] | None = None
    """The cameras to show; all without it."""
    findings: bool = True
    """Show what validation finds about the episode, of a dataset that is here; it reads the tables of all episodes."""
    max_mb: float = Field(default=200, gt=0)
    """The largest page to write, in MiB."""
    overwrite: bool = False
    """Replace the output when it exists."""


class VizResult(Config):
    """What was made."""

    path: Path | None
    """The file; None when a viewer was opened."""
    episode: int
    frames: int
    cameras: list[str]
    bytes: int

    def __str__(self) -> str:
        shown = f"episode {self.episode}: {self.frames:,} frames, {len(self.cameras)} camera(s)"
        return f"{self.path}: {shown}, {self.bytes / 1024**2:.1f} MiB" if self.path else f"{shown}, in Rerun"


def viz(config: VizConfig) -> VizResult:
    """Show one episode.

    Raises DatasetError for an unknown episode or camera and for what cannot be read, ArtifactError when the output
    exists or would be too large, and PrerequisiteError without Rerun.
    """
    output = config.output
    if output is None and config.mode == "html":
        output = Path(page_name(dataset_name(config.root), config.episode))
    if output is not None and output.exists() and not config.overwrite:
        raise ArtifactError("the output exists already", file=output, fix="add --overwrite, or choose another --output")
    root = local_root(config.root, episodes=[config.episode], cameras=config.cameras)
    view = load_episode(root, config.episode)
    cameras = chosen_cameras(view.info, config.cameras)
    if config.mode == "rerun":
        log_episode(view, cameras, f"{dataset_name(config.root)}_episode_{config.episode}", output)
    else:
        assert output is not None
        clips = [make_clip(view, camera) for camera in cameras]
        _check_size(sum(map(_encoded_size, clips)), clips, config.max_mb)
        content = page(view, clips, config, output.absolute().parent)
        _check_size(len(content), clips, config.max_mb)
        write_bytes(output, content)
    size = output.stat().st_size if output else 0
    return VizResult(path=output, episode=config.episode, frames=view.frames, cameras=cameras, bytes=size)


def dataset_name(place: Path) -> str:
    """The name of a dataset's directory, or of its repository."""
    repository = repository_at(place)
    return repository.name.split("/")[-1] if repository else place.resolve().name


def page_name(name: str, episode: int) -> str:
    """The file name of an episode's page."""
    return f"{name}_episode_{episode}.html"


def page(view: EpisodeView, clips: list[Clip], config: VizConfig, folder: Path) -> bytes:
    """The page as HTML in UTF-8; it links the episodes before and after whose pages are in `folder`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("lerobot_ops.datasets.viewing", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    name = dataset_name(config.root)
    groups = plot_groups(view)
    own, others = _findings(config) if config.findings and config.root.is_dir() else (None, 0)
    parts = environment.get_template("viz.html").generate(
        name=name,
        number=view.number,
        total=view.info.total_episodes,
        tasks=list(dict.fromkeys(text for _, text in view.tasks)),
        facts=facts(view),
        findings=own,
        other_findings=others,
        neighbours=_neighbours(name, view.number, folder),
        clips=[(clip, Markup(base64.b64encode(clip.content).decode())) for clip in clips],  # noqa: S704 - no markup
        groups=groups,
        notes=notes(view),
        fps=view.fps,
        tables=statistics_tables(view, [clip.camera for clip in clips]),
        dataset_columns=DATASET_COLUMNS,
        episode_columns=EPISODE_COLUMNS,
        content=_content(view, groups),
    )
    return b"".join(part.encode() for part in parts)  # as one text, a page would need many times its size


def _content(view: EpisodeView, groups: list[Group]) -> dict[str, Any]:
    """What the page's script reads."""
    plots = [[plot.model_dump(mode="json") for plot in group.plots] for group in groups]
    return {"frames": view.frames, "fps": view.fps, "groups": plots}


def _findings(config: VizConfig) -> tuple[list[Finding], int]:
    """(What validation finds about the episode, how many findings it has about the dataset as a whole)."""
    from lerobot_ops.datasets.validation.validate import ValidateConfig, validate

    everything = ValidateConfig(decode="none", max_per_check=10**9)
    found = validate(config.root, config=everything).findings
    return [one for one in found if config.episode in one.episodes], sum(not one.episodes for one in found)


def _neighbours(name: str, number: int, folder: Path) -> dict[str, str]:
    """The pages of the episodes before and after that are in the folder, by what to call them."""
    places = {"previous": number - 1, "next": number + 1}
    names = {label: page_name(name, place) for label, place in places.items()}
    return {label: file for label, file in names.items() if (folder / file).exists()}


def _encoded_size(clip: Clip) -> int:
    """Bytes of a clip in the page: base64 takes four characters for three bytes."""
    return len(clip.content) * 4 // 3


def _check_size(size: int, clips: list[Clip], max_mb: float) -> None:
    if size > max_mb * 1024**2:
        videos = "".join(f", {clip.camera} {_encoded_size(clip) / 1024**2:.1f} MiB" for clip in clips)
        raise ArtifactError(
            "the page would be too large",
            field="max_mb",
            found=f"{size / 1024**2:.1f} MiB{videos}",
            expected=f"at most {max_mb:g} MiB",
            fix="show fewer cameras with --cameras='[NAME]', or raise --max_mb",
        )
