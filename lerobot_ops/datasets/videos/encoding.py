"""How camera frames are encoded: the codecs, options and defaults of LeRobot (`video_writer` encodes).

The software encoders give the same bytes for the same frames: they are told to leave out what depends on the number
of processors or on the weather. See `encoders` for which of them are in this FFmpeg; it is asked when an encoder is
needed, so that a configuration alone is there at once.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator

from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from lerobot_ops.datasets.videos.depth import DepthRange

Codec = Literal[
    "libsvtav1",
    "h264",
    "hevc",
    "libaom-av1",
    "auto",
    "h264_videotoolbox",
    "hevc_videotoolbox",
    "h264_nvenc",
    "hevc_nvenc",
    "h264_vaapi",
    "h264_qsv",
]
ENCODERS = {"h264": "libx264", "hevc": "libx265"}
"""LeRobot's codec -> FFmpeg's encoder, where the names differ."""
HARDWARE = ("h264_videotoolbox", "hevc_videotoolbox", "h264_nvenc", "hevc_nvenc", "h264_vaapi", "h264_qsv")
"""In the order in which `auto` tries them, which is LeRobot's."""
_SVT_PRESET = 12
_STEADY_X264 = {"asm": "avx2"}
"""x264's AVX-512 code gives other bytes once in some hundred times, from the same frames."""
_STEADY_X265 = {"pools": "none", "frame-threads": "1", "log-level": "error"}
"""x265's parameters under which its output is the same on any machine, and its banner stays away."""


class VideoEncoding(Config):
    """How a camera's frames are encoded; LeRobot's names and defaults (`RGBEncoderConfig`).

    `libsvtav1` gives the same bytes with any number of threads. x264 and x265 do so with a fixed number, which is one
    unless `encoder_threads` says otherwise, and without B-frames: with them x264's bytes vary, and x265 makes up decode
    times for an episode of fewer frames than it reorders. libaom-av1 is run in the same way. Hardware encoders make no
    promise (see `deterministic`).
    """

    vcodec: Codec = "libsvtav1"
    """`auto` is the first hardware encoder that opens on this machine, else libsvtav1; `av1` is libsvtav1, too."""
    pix_fmt: str = "yuv420p"
    g: int | None = 2
    """Frames from one keyframe to the next: small makes random access fast."""
    crf: int | float | None = 30
    """Quality: lower is better and larger."""
    preset: int | str | None = None
    """Speed of the encoder; unset is 12 for libsvtav1 and the encoder's own for the others."""
    fast_decode: int = 0
    extra_options: dict[str, Any] = Field(default_factory=dict)
    """More options of the codec; they never override those above."""

    @field_validator("vcodec", mode="before")
    @classmethod
    def _alias(cls, value: object) -> object:
        return "libsvtav1" if value == "av1" else value

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return ENCODERS.get(self.vcodec, self.vcodec)

    @property
    def codec(self) -> str:
        """What it makes: av1, h264 or hevc."""
        return "av1" if "av1" in self.vcodec else self.vcodec.partition("_")[0]

    @property
    def deterministic(self) -> bool:
        """Whether the same frames give the same bytes, on this machine and on others with the same FFmpeg."""
        return self.vcodec not in {*HARDWARE, "auto"}

    def resolved(self) -> Self:
        """With `auto` replaced by what it stands for on this machine.

        Raises PrerequisiteError when the encoder is not in this FFmpeg, ConfigError when it lacks an extra option.
        """
        from lerobot_ops.datasets.videos.encoders import check_encoder, first_that_opens, option_names, unknown_options

        if self.vcodec == "auto":
            return self.model_copy(update={"vcodec": first_that_opens(HARDWARE) or "libsvtav1"}).resolved()
        check_encoder(self.encoder)
        unknown = unknown_options(self.encoder, self.extra_options)
        if unknown:
            fix = did_you_mean(unknown[0], option_names(self.encoder))
            raise ConfigError(
                "the video encoder has no such option", field=f"extra_options.{unknown[0]}", found=self.encoder, fix=fix
            )
        return self

    def options(self, threads: int | None = None) -> dict[str, str]:
        """The encoder's options; `threads` is `encoder_threads`, None leaves the choice to us."""
        from lerobot_ops.datasets.videos.encoders import has_avx512

        own = {**_OPTIONS[_family(self.vcodec)](self, threads)}
        options = {"g": self.g, **own}
        extra = {name: value for name, value in self.extra_options.items() if name not in options}
        if self.vcodec == "hevc":
            extra["x265-params"] = _params(self.extra_options.get("x265-params", ""), _steady_x265(threads))
        if self.vcodec == "h264" and has_avx512():
            extra["x264-params"] = _params(self.extra_options.get("x264-params", ""), _STEADY_X264)
        return {name: str(value) for name, value in {**extra, **options}.items() if value is not None}

    def info(self) -> dict[str, Any]:
        """The encoder settings that the feature's `info` block records."""
        return {
            "video.g": self.g,
            "video.crf": self.crf,
            "video.preset": self._preset,
            "video.fast_decode": self.fast_decode,
            "video.video_backend": "pyav",
            "video.extra_options": self.extra_options,
            "is_depth_map": False,
        }

    @property
    def _preset(self) -> int | str | None:
        return _SVT_PRESET if self.preset is None and self.vcodec == "libsvtav1" else self.preset


class DepthEncoding(VideoEncoding):
    """How a depth camera is encoded: 12-bit levels of grey, lossless; LeRobot's `DepthEncoderConfig`.

    The range is in metres: see `depth.DepthRange`.
    """

    vcodec: Codec = "hevc"
    pix_fmt: str = "gray12le"
    extra_options: dict[str, Any] = Field(default_factory=lambda: {"x265-params": "lossless=1"})
    depth_min: float = 0.01
    depth_max: float = 10.0
    shift: float = 3.5
    use_log: bool = True

    @property
    def range(self) -> "DepthRange":
        """What the levels stand for."""
        from lerobot_ops.datasets.videos.depth import DepthRange

        return DepthRange(depth_min=self.depth_min, depth_max=self.depth_max, shift=self.shift, use_log=self.use_log)

    def info(self) -> dict[str, Any]:
        """The encoder settings and the range, as the feature's `info` block records them."""
        settings = super().info()
        del settings["is_depth_map"]
        return {**settings, **self.range.info(), "is_depth_map": True}


def _svt(encoding: VideoEncoding, threads: int | None) -> dict[str, Any]:
    parameters = f"fast-decode={max(0, min(2, encoding.fast_decode))}" + ("" if threads is None else f":lp={threads}")
    return {"crf": encoding.crf, "preset": encoding._preset, "svtav1-params": parameters}


def _x264(encoding: VideoEncoding, threads: int | None) -> dict[str, Any]:
    return {**_x265(encoding, threads), "threads": threads or 1}


def _x265(encoding: VideoEncoding, threads: int | None) -> dict[str, Any]:
    tune = "fastdecode" if encoding.fast_decode else None
    return {"crf": encoding.crf, "preset": encoding.preset, "tune": tune, "bf": 0}


def _steady_x265(threads: int | None) -> dict[str, str]:
    return _STEADY_X265 | ({} if threads is None or threads == 1 else {"pools": str(threads)})


def _params(asked: str, steady: Mapping[str, str]) -> str:
    given = dict(part.partition("=")[::2] for part in str(asked).split(":") if part)
    return ":".join(f"{name}={value}" if value else name for name, value in {**steady, **given}.items())


def _aom(encoding: VideoEncoding, threads: int | None) -> dict[str, Any]:
    rows = 1 if threads and threads > 1 else None
    return {"crf": encoding.crf, "cpu-used": encoding.preset, "threads": threads or 1, "row-mt": rows}


def _videotoolbox(encoding: VideoEncoding, threads: int | None) -> dict[str, Any]:
    return {"q:v": None if encoding.crf is None else max(1, min(100, round(100 - 2 * encoding.crf)))}


def _nvenc(encoding: VideoEncoding, threads: int | None) -> dict[str, Any]:
    return {"rc": 0, "qp": encoding.crf, "preset": encoding.preset}


def _vaapi(encoding: VideoEncoding, threads: int | None) -> dict[str, Any]:
    return {"qp": encoding.crf}


def _qsv(encoding: VideoEncoding, threads: int | None) -> dict[str, Any]:
    return {"global_quality": encoding.crf, "preset": encoding.preset}


_OPTIONS = {
    "libsvtav1": _svt,
    "h264": _x264,
    "hevc": _x265,
    "libaom-av1": _aom,
    "videotoolbox": _videotoolbox,
    "nvenc": _nvenc,
    "vaapi": _vaapi,
    "qsv": _qsv,
}


def _family(vcodec: str) -> str:
    return vcodec.rpartition("_")[2] if vcodec in HARDWARE else vcodec
