"""An episode in Rerun: the names of LeRobot's own viewer, so that layouts made for one fit the other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_ops.artifacts import fsync_directory
from lerobot_ops.datasets.viewing.episode import EpisodeView, camera_frames, dimension_names, notes
from lerobot_ops.errors import PrerequisiteError

_ENTITIES = {"observation.state": "state"}
"""LeRobot's viewer calls the state so; every other feature keeps its name."""
_JPEG_QUALITY = 90


def log_episode(view: EpisodeView, cameras: Sequence[str], name: str, output: Path | None) -> None:
    """Open the viewer with the episode, or write it to the .rrd file `output`, whole or not at all.

    Entities are cameras, `state`, `action` and other features; vectors carry their dimensions' names. Timelines are
    `frame_index` and `timestamp`. Raises PrerequisiteError without rerun-sdk.
    """
    rr = _rerun()
    recording = rr.RecordingStream(name, recording_id=name)  # the same id each time: a second look replaces the first
    blueprint = _blueprint(view, cameras)
    if output is None:
        recording.spawn(default_blueprint=blueprint)
        _log(rr, recording, view, cameras)
        recording.flush()
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    try:
        recording.save(partial, default_blueprint=blueprint)
        _log(rr, recording, view, cameras)
        recording.flush()
        recording.disconnect()
        partial.replace(output)
        fsync_directory(output.absolute().parent)
    finally:
        partial.unlink(missing_ok=True)


def _rerun() -> Any:
    try:
        import rerun
    except ImportError:
        raise PrerequisiteError("Rerun is not installed", fix="pip install 'lerobot-ops[viz]'") from None
    return rerun


def _blueprint(view: EpisodeView, cameras: Sequence[str]) -> Any:
    import rerun.blueprint as rrb

    views = [rrb.Spatial2DView(origin=camera, name=camera) for camera in cameras]
    views += [rrb.TimeSeriesView(origin=entity, name=entity) for entity in map(_entity, view.vectors)]
    return rrb.Blueprint(rrb.Grid(*views))


def _log(rr: Any, recording: Any, view: EpisodeView, cameras: Sequence[str]) -> None:
    numbers = np.arange(view.frames)
    times = [
        rr.TimeColumn("frame_index", sequence=numbers),
        rr.TimeColumn("timestamp", duration=numbers / view.fps),
    ]
    for name, feature in view.vectors.items():
        values = view.column(name).reshape(view.frames, -1).astype(np.float64)
        names = dimension_names(feature) if values.shape[1] > 1 else [name]
        recording.log(_entity(name), rr.SeriesLines(names=names), static=True)
        recording.send_columns(_entity(name), times, rr.Scalars.columns(scalars=values))
    for note in notes(view):
        _at(recording, note.frame, view.fps)
        recording.log("notes", rr.TextLog(f"{note.kind}: {note.text}"))
    for camera in cameras:
        for number, frame in enumerate(camera_frames(view, camera)):
            _at(recording, number, view.fps)
            recording.log(camera, _picture(rr, frame))


def _at(recording: Any, number: int, fps: int) -> None:
    recording.set_time("frame_index", sequence=number)
    recording.set_time("timestamp", duration=number / fps)


def _picture(rr: Any, frame: np.ndarray) -> Any:
    if frame.ndim == 2:
        return rr.DepthImage(frame, meter=1.0, colormap=rr.components.Colormap.Viridis)
    colours = frame[..., :3] if frame.shape[2] >= 3 else frame[..., 0]
    return rr.Image(np.ascontiguousarray(colours)).compress(jpeg_quality=_JPEG_QUALITY)


def _entity(name: str) -> str:
    return _ENTITIES.get(name, name)
