"""Broken datasets, each made of a good one by one stated mutation, and what validation has to say about it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from mutations import (
    DATA,
    DEPTH,
    EPISODES,
    FRONT,
    HISTOGRAMS,
    INFO,
    NAN,
    STATS,
    TASKS,
    VIDEO,
    WRIST,
    Mutation,
    add_column,
    all_of,
    another_episode,
    break_packets,
    cast,
    cells,
    column,
    copy,
    counts_of_another_episode,
    counts_of_other_pixels,
    drop,
    dropped_frame,
    feature,
    feature_info,
    first_episode_again,
    folder,
    garble,
    image,
    info,
    language,
    move,
    new_video,
    null_vector,
    pictures,
    recorded_anew,
    remove,
    rows,
    second,
    second_half_in_another_file,
    stats,
    truncate,
    two_widths,
    without_feature,
    without_footer,
    without_info,
    without_stats,
    write,
)
from recordings import LEROBOT, SIZE, STATE, around_lerobot_av1, picture, record

from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.writing.writer import DatasetWriter

EVENT = {"role": "user", "content": "faster", "style": "interjection"}
SUBTASK = {"role": "assistant", "content": "reach", "style": "subtask", "timestamp": 0.0}


@dataclass(frozen=True)
class Breakage:
    """One broken dataset."""

    said: str
    """The mutation, in a sentence."""
    mutate: Mutation
    check: str
    """The id of the check that has to find it."""
    severity: str = "error"
    message: str = ""
    """A part of the finding's message."""
    episodes: list[int] = field(default_factory=list)
    """The episodes that the finding names."""
    base: str = "recorded"
    """The good dataset: see `good_datasets`."""


def good_datasets(folder: Path) -> Iterator[tuple[str, Path]]:
    """Small good datasets by name: ours with all kinds of features, and what LeRobot wrote."""
    tasks = ["push", "pull", "push", "pull"]
    yield "recorded", record(folder / "recorded", tasks, cameras={FRONT: "video", WRIST: "image"})
    yield "annotated", annotated(folder / "annotated")
    yield "unfinished", unfinished(folder / "unfinished")
    yield "av1", around_lerobot_av1(folder / "av1")
    yield "lerobot h264", LEROBOT / "two_task_h264"


def annotated(root: Path) -> Path:
    """Two episodes of 12 frames with language and a depth camera."""
    depth = {"dtype": "video", "shape": [*SIZE[:2], 1], "names": None, "info": {"is_depth_map": True}}
    language = {"dtype": "language", "shape": [1], "names": None}
    features = {"observation.state": STATE, "language_persistent": language, "language_events": language, DEPTH: depth}
    rng = np.random.default_rng(0)
    with DatasetWriter.create(root, fps=10, features=features) as writer:
        for episode in range(2):
            for frame in range(12):
                distances = 800 + 10 * picture(episode, frame)[..., :1].astype(np.uint16)
                state = rng.normal(size=3).astype(np.float32)
                values = {"observation.state": state, DEPTH: distances, "task": "reach"}
                writer.add_frame(values | ({"language_events": [EVENT]} if frame == 5 else {}))
            writer.save_episode(language_persistent=[SUBTASK])
    return root


def unfinished(root: Path) -> Path:
    """Three episodes of a recording that goes on: each in files of its own."""
    rng = np.random.default_rng(0)
    camera = {"dtype": "video", "shape": list(SIZE), "names": None}
    features = {"observation.state": STATE, FRONT: camera}
    writer = DatasetWriter.create(root, fps=10, features=features, video=VideoEncoding(vcodec="h264"))
    for episode in range(3):
        for frame in range(10):
            state = rng.normal(size=3).astype(np.float32)
            writer.add_frame({"observation.state": state, FRONT: picture(episode, frame), "task": "push"})
        writer.save_episode()
    writer.close()
    return root


def _still(episode: int, frame: int) -> np.ndarray:
    return picture(episode, 0 if episode == 2 else frame)


def _of_colour(colour: tuple[int, int, int]) -> Mutation:
    """The pictures of episode 1 have one colour, with the noise of a camera."""
    rng = np.random.default_rng(0)

    def shown(episode: int, frame: int) -> np.ndarray:
        plain = np.full(SIZE, colour, np.int16) + rng.integers(-1, 2, SIZE)
        return plain.clip(0, 255).astype(np.uint8) if episode == 1 else picture(episode, frame)

    return pictures(shown, crf=18)


def _spiked(values: np.ndarray) -> np.ndarray:
    """Slow movements, and one reading far away from them."""
    values = 0.05 * np.cumsum(np.sign(values), axis=0)
    values[150, 0] += 40
    return values


def _at_its_limit(values: np.ndarray) -> np.ndarray:
    values[:, 0] = np.minimum(values[:, 0], np.quantile(values[:, 0], 0.3))
    return values


ALL = [0, 1, 2, 3]

# fmt: off
BREAKAGES: dict[str, Breakage] = {
    # files
    "old version": Breakage(
        "info.json says v2.1", info(codebase_version="v2.1"), "info", message="v2.1"),
    "no rate": Breakage("fps is 0", info(fps=0), "info", message="fps"),
    "rate is gone": Breakage("info.json has no fps", without_info("fps"), "info", message="fps"),
    "info is no JSON": Breakage("info.json is cut to a brace", write(INFO, b"{"), "info", message="cannot be read"),
    "info is a list": Breakage("info.json holds a list", write(INFO, b"[1]"), "info", message="cannot be read"),
    "info is gone": Breakage("info.json is removed", remove(INFO), "info", message="no such file"),
    "unknown key": Breakage(
        "info.json has a key of v2.1", info(total_videos=3), "info", "info", "total_videos"),
    "unknown dtype": Breakage(
        "a feature has a dtype that numpy does not know", feature("action", dtype="float12"), "info", message="action"),
    "empty shape": Breakage("a feature has no shape", feature("action", shape=[]), "info", message="action"),
    "default of another type": Breakage(
        "index is declared int32", feature("index", dtype="int32"), "info", message="int32[1]"),
    "default not declared": Breakage(
        "timestamp is not declared", without_feature("timestamp"), "info", message="'timestamp' is not declared"),
    "path outside": Breakage(
        "data_path leads out of the dataset", info(data_path="../{chunk_index}/{file_index}.parquet"), "info",
        message="data_path"),
    "data is gone": Breakage("the only data file is removed", remove(DATA), "missing-file", message="no data files"),
    "video is gone": Breakage(
        "the only video of a camera is removed", remove(VIDEO), "missing-file", message=VIDEO, episodes=ALL),
    "tasks are gone": Breakage("tasks.parquet is removed", remove(TASKS), "missing-file", message="task table"),
    "episodes are gone": Breakage(
        "the episodes table is removed", remove(EPISODES), "missing-file", message="no episodes table"),
    "pointer to no data": Breakage(
        "episode 2 points at a data file that does not exist", cells(EPISODES, "data/file_index", {2: 7}),
        "missing-file", message="data/chunk-000/file-007.parquet does not exist", episodes=[2]),
    "pointer to no video": Breakage(
        "episode 2 points at a video that does not exist", cells(EPISODES, f"videos/{FRONT}/file_index", {2: 7}),
        "missing-file", message="file-007.mp4 does not exist", episodes=[2]),
    "data cut short": Breakage(
        "the data file ends after 60%", truncate(DATA, 0.6), "unreadable-file", message="no parquet footer"),
    "data without footer": Breakage(
        "the data file's writer was killed", without_footer(DATA), "unreadable-file", message="no parquet footer"),
    "data garbled": Breakage(
        "200 bytes in the middle of the data file are noise", garble(DATA, 0.02), "unreadable-file", message=DATA),
    "episodes cut short": Breakage(
        "the episodes table ends after 60%", truncate(EPISODES, 0.6), "unreadable-file", message=EPISODES),
    "tasks are empty": Breakage("tasks.parquet has no bytes", truncate(TASKS, 0), "unreadable-file", message=TASKS),
    "statistics cut short": Breakage(
        "stats.json ends after 50%", truncate(STATS, 0.5), "unreadable-file", message=STATS),
    "statistics are a list": Breakage(
        "stats.json holds a list", write(STATS, b"[1]"), "unreadable-file", message=STATS),
    "scratch folder": Breakage(
        "a temporary folder of LeRobot is left", folder("tmpab12"), "leftover-files", "warning", "tmpab12/"),
    "staged frames": Breakage(
        "frames of an unfinished episode are left", copy(INFO, f"images/{FRONT}/episode-000004/frame-000000.png"),
        "leftover-files", "warning", "images/"),
    "video too many": Breakage(
        "a video is there twice", copy(VIDEO, second(VIDEO)), "leftover-files", "warning", "file-001.mp4"),
    # tables
    "missing column": Breakage(
        "the data has no action", drop(DATA, "action"), "data-schema", message="lacks 1 declared column: action"),
    "missing images": Breakage("the data has no images", drop(DATA, WRIST), "data-schema", message=WRIST),
    "missing counter": Breakage("the data has no index", drop(DATA, "index"), "data-schema", message="index"),
    "undeclared column": Breakage(
        "the data has a column more", add_column(DATA, "surprise"), "data-schema", message="surprise"),
    "wrong type": Breakage(
        "the reward is stored as float64", cast(DATA, "next.reward", pa.float64()), "data-schema",
        message="double, but is declared"),
    "wrong width": Breakage(
        "the action is declared wider than it is", feature("action", shape=[3]), "data-schema", message="float32[3]"),
    "two widths": Breakage("an action has three numbers, the others two", two_widths, "data-schema", message="action"),
    "lists of any length": Breakage(
        "the action is stored as pandas does", cast(DATA, "action", pa.list_(pa.float32())), "data-schema", "info",
        "list<"),
    "no value": Breakage(
        "next.success is null once", cells(DATA, "next.success", {13: None}), "data-schema",
        message="no value in 1 frame", episodes=[1]),
    "no vector": Breakage("an action is null", null_vector, "data-schema", message="no value in 1 row", episodes=[1]),
    "negative counter": Breakage(
        "a task_index is -1", cells(DATA, "task_index", {53: -1}), "data-schema", message="task_index is -1",
        episodes=[3]),
    "no length": Breakage(
        "the episodes table has no length", drop(EPISODES, "length"), "episodes-schema", message="no column 'length'"),
    "no video pointer": Breakage(
        "the episodes table does not name the video files", drop(EPISODES, f"videos/{FRONT}/file_index"),
        "episodes-schema", message="file"),
    "no task texts": Breakage(
        "the episodes table has no tasks", drop(EPISODES, "tasks"), "episodes-schema", "warning", "no column 'tasks'"),
    "episodes out of order": Breakage(
        "two rows of the episodes table are swapped", rows(EPISODES, [0, 2, 1, 3]), "episodes-schema",
        message="row 1 is episode 2", episodes=[1, 2]),
    "episode of no frames": Breakage(
        "a length is 0", cells(EPISODES, "length", {1: 0}), "episodes-schema", message="length is 0", episodes=[1]),
    "pointer of another type": Breakage(
        "data/file_index is stored as int8", cast(EPISODES, "data/file_index", pa.int8()), "episodes-schema",
        message="int8"),
    "negative time": Breakage(
        "an episode begins before its video", cells(EPISODES, f"videos/{FRONT}/from_timestamp", {0: -0.1}),
        "episodes-schema", message="from_timestamp is -0.1", episodes=[0]),
    "tasks out of order": Breakage(
        "two task indices are swapped", cells(TASKS, "task_index", {0: 1, 1: 0}), "tasks-schema", message="task_index"),
    "task twice": Breakage(
        "two tasks have one text", cells(TASKS, "task", {1: "push"}), "tasks-schema", message="one row only"),
    "tasks without texts": Breakage(
        "the task table has no texts", drop(TASKS, "task"), "tasks-schema", message="no tasks"),
    "NaN": Breakage(
        "an action is NaN", cells(DATA, "action", {30: [0.0, NAN]}), "not-finite",
        message="action[1] is nan in 1 frame", episodes=[2]),
    "infinity": Breakage(
        "a reward is infinite", cells(DATA, "next.reward", {30: float("inf")}), "not-finite",
        message="next.reward is inf", episodes=[2]),
    # language and depth
    "unknown style": Breakage(
        "an event has a style of no meaning", language("language_events", 5, [EVENT | {"style": "song"}]), "language",
        message="unknown style", episodes=[0], base="annotated"),
    "speech of nobody": Breakage(
        "an event has no role", language("language_events", 5, [EVENT | {"role": None}]), "language",
        message="no role", episodes=[0], base="annotated"),
    "camera of no picture": Breakage(
        "a plain event names a camera", language("language_events", 5, [EVENT | {"camera": DEPTH}]), "language",
        message="camera", episodes=[0], base="annotated"),
    "subtask of one frame": Breakage(
        "the persistent rows differ on one frame", language("language_persistent", 5, []), "language", "warning",
        "not the same on all frames", [0], base="annotated"),
    "language as text": Breakage(
        "events are stored as text", all_of(drop(DATA, "language_events"), add_column(DATA, "language_events")),
        "language", message="expected a list", base="annotated"),
    "language undeclared": Breakage(
        "events are in the data and not in info.json", without_feature("language_events"), "data-schema",
        message="language_events", base="annotated"),
    "depth of 8 bits": Breakage(
        "the depth camera is declared as a colour video", feature_info(DEPTH, video__pix_fmt="yuv420p"), "depth-format",
        message="does not keep 12 bits", base="annotated"),
    "depth of no range": Breakage(
        "nothing says how far the depth camera sees", feature_info(DEPTH, video__depth_max=None), "depth-format",
        "warning", "video.depth_max", base="annotated"),
    "depth turned round": Breakage(
        "depth_min is above depth_max", feature_info(DEPTH, video__depth_min=20.0), "depth-format",
        message="from 20.0", base="annotated"),
    "depth in feet": Breakage(
        "the distances have a unit of no meaning", feature_info(DEPTH, depth_unit="ft"), "depth-format",
        message="'ft'", base="annotated"),
    # recordings that were not finished
    "recording": Breakage(
        "a recording was stopped", lambda root: None, "unfinished-recording", "warning", "not finished",
        base="unfinished"),
    "info one episode behind": Breakage(
        "a recording was killed before it wrote info.json",
        info(total_episodes=2, total_frames=20, splits={"train": "0:2"}), "unfinished-recording", "warning",
        "counts 2 episodes", base="unfinished"),
    "last episode without row": Breakage(
        "a recording was killed before its last episode was there",
        all_of(remove(EPISODES.replace("000.p", "002.p")), info(total_episodes=2, total_frames=20)),
        "leftover-files", "warning", "1 data file at the end", base="unfinished"),
    "finished, one behind": Breakage(
        "info.json of a finished dataset counts an episode less",
        info(total_episodes=3, total_frames=39, splits={"train": "0:3"}), "unfinished-recording", "warning",
        "counts 3 episodes"),
    # across files
    "wrong frame counter": Breakage(
        "total_frames is too large", info(total_frames=60), "totals", message="says 60, but there are 54"),
    "wrong episode counter": Breakage(
        "total_episodes is too large", info(total_episodes=5), "totals", message="says 5, but there are 4"),
    "wrong task counter": Breakage(
        "total_tasks is too small", info(total_tasks=1), "totals", message="says 1, but there are 2"),
    "split beyond the end": Breakage(
        "a split ends behind the last episode", info(splits={"train": "0:9"}), "totals", "warning", "'0:9'"),
    "index jumps": Breakage(
        "an index is too large", cells(DATA, "index", {20: 99}), "index-order", message="is 99 where 20"),
    "rows out of order": Breakage(
        "the first two episodes are swapped", rows(DATA, [*range(12, 25), *range(12), *range(25, 54)]), "index-order",
        message="is 12 where 0"),
    "frame lost": Breakage(
        "a row is gone", rows(DATA, [n for n in range(54) if n != 20]), "frame-order", message="frames are missing",
        episodes=[1]),
    "frame twice": Breakage(
        "a row is there twice", rows(DATA, [*range(20), 19, *range(20, 54)]), "frame-order", message="repeated",
        episodes=[1]),
    "episode number jumps": Breakage(
        "episode 3 is called 7", cells(DATA, "episode_index", dict.fromkeys(range(39, 54), 7)), "frame-order",
        message="episode 7 begins where episode 3", episodes=[7]),
    "other rate": Breakage(
        "fps is doubled", info(fps=20), "timestamps", message="at 20 fps", episodes=ALL),
    "timestamp off": Breakage(
        "a timestamp is seconds too large", cells(DATA, "timestamp", {20: 5.0}), "timestamps", message="5.000000 s",
        episodes=[1]),
    "length disagrees": Breakage(
        "a length is too small", cells(EPISODES, "length", {1: 12}), "episode-bounds", message="length 12, but",
        episodes=[1]),
    "bounds disagree": Breakage(
        "an episode begins at another row", cells(EPISODES, "dataset_from_index", {2: 20}), "episode-bounds",
        message="rows", episodes=[2]),
    "episode not listed": Breakage(
        "the last row of the episodes table is gone", rows(EPISODES, [0, 1, 2]), "episode-bounds",
        message="does not list: 3", episodes=[3]),
    "data in another file": Breakage(
        "episode 3 is in a second data file that nothing names", second_half_in_another_file, "data-pointers",
        message="episode 3 is in data/chunk-000/file-001.parquet", episodes=[3]),
    "rows elsewhere": Breakage(
        "the episodes table says that it is another file", cells(EPISODES, "meta/episodes/file_index", {0: 4}),
        "data-pointers", "warning", "says that it is another file"),
    "unknown task": Breakage(
        "a task_index is not in the task table", cells(DATA, "task_index", {30: 5}), "task-index",
        message="task_index is 5", episodes=[2]),
    "other task text": Breakage(
        "an episode has a text that its frames do not have", cells(EPISODES, "tasks", {2: ["pull"]}), "episode-tasks",
        message="['pull']", episodes=[2]),
    # videos and images
    "video is no video": Breakage(
        "the video holds a word", write(VIDEO, b"nothing"), "video-unreadable", message=VIDEO, episodes=ALL),
    "video is empty": Breakage(
        "the video has no bytes", truncate(VIDEO, 0), "video-unreadable", message=VIDEO, episodes=ALL),
    "video cut short": Breakage(
        "the video ends after 2%", truncate(VIDEO, 0.02), "video-unreadable", message=VIDEO, episodes=ALL),
    "video of another size": Breakage(
        "the video has half the size", new_video(54, size=2), "video-format", message="32x24 (declared 64x48)",
        episodes=ALL),
    "video of another rate": Breakage(
        "the video has twice the rate", new_video(54, fps=20), "video-format", message="20 fps", episodes=ALL),
    "video of another codec": Breakage(
        "the video is AV1 and info.json says h264", new_video(54, vcodec="av1"), "video-format",
        message="video.codec av1", episodes=ALL),
    "video too short": Breakage(
        "the video has 30 of 54 frames", new_video(30), "video-frames", message="30 frames", episodes=[2, 3]),
    "one frame dropped": Breakage(
        "the video lacks the last frame", new_video(53), "video-frames", message="53 frames", episodes=[3]),
    "frame dropped while streaming": Breakage(
        "the video of episode 1 lacks a frame, and episode 2 follows at once", dropped_frame, "video-frames",
        message="episodes 1 and 2 claim the same frames", episodes=[1, 2]),
    "frames of two episodes": Breakage(
        "an episode begins a frame too early", cells(EPISODES, f"videos/{FRONT}/from_timestamp", {1: 1.1}),
        "video-frames", message="claim the same frames", episodes=[0, 1]),
    "frames of no episode": Breakage(
        "the video has 6 frames more", new_video(60), "video-frames", "info", "6 frames"),
    "begins between frames": Breakage(
        "an episode begins 30 ms after its first frame", cells(EPISODES, f"videos/{FRONT}/from_timestamp", {1: 1.23}),
        "video-timestamps", message="0.030000 s away", episodes=[1]),
    "ends elsewhere": Breakage(
        "an episode ends seconds later", cells(EPISODES, f"videos/{FRONT}/to_timestamp", {1: 9.0}), "video-timestamps",
        "warning", "episode 1 spans", [1]),
    "broken packets": Breakage(
        "the second half of the packets is noise", break_packets, "video-decode", message="does not decode",
        episodes=[2, 3]),
    "video moved": Breakage(
        "a video has another number", move(VIDEO, second(VIDEO)), "missing-file", message=VIDEO, episodes=ALL),
    "AV1 is gone": Breakage(
        "the first AV1 video is removed", lambda root: next(root.rglob("*.mp4")).unlink(), "missing-file",
        message=".mp4 does not exist", episodes=ALL, base="av1"),
    "AV1 cut short": Breakage(
        "the AV1 video lacks its second half", lambda root: truncate(next(root.rglob("*.mp4")), 0.5)(root),
        "video-frames", message="but episode 2 is frames 80 to 120", episodes=[2, 3], base="av1"),
    "LeRobot's frame lost": Breakage(
        "a row of LeRobot's data is gone", rows(DATA, [n for n in range(960) if n != 100]), "frame-order",
        message="frames are missing", episodes=[1], base="lerobot h264"),
    "broken image": Breakage(
        "an image ends after its signature", image(0, b"\x89PNG\r\n\x1a\nnonsense"), "image-decode",
        message="does not decode", episodes=[0]),
    "no image": Breakage(
        "an image has no bytes", image(53, None), "image-decode", message="there is no image", episodes=[3]),
    "image of another size": Breakage(
        "images are declared with half their size", feature(WRIST, shape=[24, 32, 3]), "image-decode", message="64x48",
        episodes=ALL),
    # statistics
    "no statistics": Breakage("stats.json is removed", remove(STATS), "stats-missing", message="no statistics"),
    "feature without statistics": Breakage(
        "stats.json has no action", without_stats("action"), "stats-missing", "warning", "'action' has no statistics"),
    "statistic missing": Breakage(
        "the action has no std", stats("action", std=None), "stats-missing", message="'action' has no std"),
    "quantile missing": Breakage(
        "the action has no median", stats("action", q50=None), "stats-missing", "warning", "has no q50"),
    "statistic of another shape": Breakage(
        "the action's mean is one number", stats("action", mean=[0.0]), "stats-missing", message="expected [2]"),
    "statistic is text": Breakage(
        "the action's mean is text", stats("action", mean=["a", "b"]), "stats-implausible", message="not made of"),
    "statistics out of order": Breakage(
        "the action's least values are above its greatest", stats("action", min=[9.0, 9.0]), "stats-implausible",
        message="outside"),
    "statistics not finite": Breakage(
        "the action's mean is NaN", stats("action", mean=[NAN, 0.0]), "stats-implausible", message="not finite"),
    "camera not scaled": Breakage(
        "a camera's statistics go to 255", stats(FRONT, max=[[[255.0]]] * 3), "stats-implausible", message="in [0, 1]"),
    "statistics of other data": Breakage(
        "the action's mean is another", stats("action", mean=[0.5, 0.5]), "stats-stale", "warning", "of 'action'"),
    "statistics of old indices": Breakage(
        "the statistics of index are from before an edit", stats("index", mean=[40.0]), "stats-stale", "info",
        "of 'index'"),
    "episodes without statistics": Breakage(
        "the episodes table has no mean of the action", drop(EPISODES, "stats/action/mean"), "episode-stats", "warning",
        "action"),
    "episode with others' statistics": Breakage(
        "an episode's mean of the action is another", cells(EPISODES, "stats/action/mean", {2: [3.0, 3.0]}),
        "episode-stats", "warning", "mean of 'action'", [2]),
    "other pixel counts": Breakage(
        "the pixel counts of an episode are of other pictures", counts_of_other_pixels, "histograms", "warning",
        FRONT, [2]),
    "pixel counts of nobody": Breakage(
        "there are pixel counts of a ninth episode", counts_of_another_episode, "histograms", "warning", "9"),
    "pixel counts cut short": Breakage(
        "the pixel counts end after 60%", truncate(HISTOGRAMS, 0.6), "histograms", "warning", "cannot be read"),
    # quality
    "dead motor": Breakage(
        "a dimension of the action never changes", column(DATA, "action", lambda v: v * [0, 1]), "constant-dimension",
        "warning", "1 dimension of 'action' (of 2) never changes: dx"),
    "action at its limit": Breakage(
        "a dimension of the action is cut off at its lower third", column(DATA, "action", _at_its_limit),
        "saturated-dimension", "warning", "dx"),
    "wrong reading": Breakage(
        "a state is far away once",
        all_of(recorded_anew(["push"] * 3, 100), column(DATA, "observation.state", _spiked)), "jumps",
        "warning", "2 steps of 'observation.state' far beyond the others: x goes by", [1]),
    "frozen camera": Breakage(
        "episode 2 shows its first picture only", pictures(_still), "frozen-camera", "warning", FRONT, [2]),
    "black pictures": Breakage(
        "episode 1 is black", _of_colour((0, 0, 0)), "blank-frames", "warning", "black", [1]),
    "overexposed pictures": Breakage(
        "episode 1 is white", _of_colour((255, 255, 255)), "blank-frames", "warning", "overexposed", [1]),
    "green pictures": Breakage(
        "episode 1 is green", _of_colour((0, 160, 0)), "blank-frames", "warning", "of one colour", [1]),
    "never successful": Breakage(
        "episode 1 does not reach success", cells(DATA, "next.success", {24: False}), "episode-without-success",
        "warning", "never", [1]),
    "no task text": Breakage(
        "a task has a text of spaces",
        all_of(cells(TASKS, "task", {1: "  "}), cells(EPISODES, "tasks", {1: ["  "], 3: ["  "]})),
        "missing-task-text", "warning", "1 task without text", [1, 3]),
    "one frame": Breakage(
        "an episode has one frame", recorded_anew(["push"] * 3, 1), "episode-length", "warning",
        "episode 0 has 1 frame", [0]),
    "long episode": Breakage(
        "an episode is many times as long as the others",
        all_of(recorded_anew(["push"] * 3, 4), another_episode(60)), "episode-length", "warning",
        "very long", [3]),
    "copied episode": Breakage(
        "episode 3 holds the frames of episode 0", all_of(recorded_anew(["push"] * 3, 4), first_episode_again),
        "duplicate-episodes", "warning", "0 = 3", [3]),
}
# fmt: on
