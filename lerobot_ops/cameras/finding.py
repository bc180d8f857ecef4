"""Which cameras there are, and what each of them sees."""

import io
from pathlib import Path

from pydantic import TypeAdapter
from pydantic_core import to_json

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.cameras.camera import FoundCamera
from lerobot_ops.cameras.registry import CAMERAS, AnyCameraConfig, find_cameras, make_camera
from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError, DeviceError, did_you_mean


class FindCamerasConfig(Config):
    """List the cameras of this machine, and save a picture of each."""

    kind: str | None = None
    """Cameras of one type only, such as opencv; by default of all."""
    output_dir: Path | None = Path("outputs/captured_images")
    """Where a picture of every camera is written; null writes none."""
    as_json: bool = False


class SeenCamera(FoundCamera):
    """A camera, and what it sees."""

    picture: Path | None = None
    problem: str | None = None
    """Why there is no picture."""

    def __str__(self) -> str:
        settings = ", ".join(f"{name}: {value}" for name, value in self.settings.items())
        details = ", ".join(f"{name} {value}" for name, value in self.details.items())
        lines = [self.name, f"  --robot.cameras='{{NAME: {{{settings}}}}}'", *([f"  {details}"] if details else [])]
        lines += [f"  picture: {self.picture}"] if self.picture else []
        lines += ["  " + self.problem.replace("\n", "\n  ")] if self.problem else []
        return "\n".join(lines)


def look(config: FindCamerasConfig) -> list[SeenCamera]:
    """Every camera that is found, each with a picture or the reason why it gives none."""
    if config.kind is not None and config.kind not in CAMERAS.types:
        raise ConfigError(
            "there is no such kind of camera", found=config.kind, fix=did_you_mean(config.kind, CAMERAS.types)
        )
    return [_seen(camera, config.output_dir) for camera in find_cameras(config.kind)]


def text(cameras: list[SeenCamera], as_json: bool) -> str:
    """What is shown of `cameras`."""
    if as_json:
        return to_json(cameras, indent=2).decode()
    nothing = "no camera was found; on Linux they are /dev/video*, and the user is in the group video"
    return "\n".join(map(str, cameras)) or nothing


def _seen(camera: FoundCamera, folder: Path | None) -> SeenCamera:
    found = dict(camera)
    if folder is None:
        return SeenCamera(**found)
    from PIL import Image

    try:
        with make_camera(TypeAdapter(AnyCameraConfig).validate_python(camera.settings), camera.name) as device:
            image = device.next(timeout_ms=5000).image
    except DeviceError as error:
        return SeenCamera(**found, problem=str(error))
    picture = folder / f"{''.join(letter if letter.isalnum() else '_' for letter in camera.name)}.png"
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="png")
    write_bytes(picture, content.getvalue())
    return SeenCamera(**found, picture=picture)
