"""`lerobot-ops COMMAND --flag=value …`: one command per operation, LeRobot's flag names, no logic of its own.

Only the chosen command's modules are imported, so `--help` answers at once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lerobot_ops.errors import ConfigError, OpsError, did_you_mean
from lerobot_ops.large_pages import ask_for_large_pages

Arguments = Sequence[str]


def main(arguments: Arguments | None = None) -> None:
    """Run one command; exits 0 when it succeeded, 1 on a problem that the user can mend, 2 on a wrong command line."""
    if arguments is None and COMPUTE.intersection(sys.argv[1:2]):
        ask_for_large_pages()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    name, *rest = arguments
    if name == "--version":
        from lerobot_ops import __version__

        print(__version__)
        return
    try:
        if name not in COMMANDS:
            raise ConfigError("there is no such command", found=name, fix=did_you_mean(name, COMMANDS))
        COMMANDS[name][1](rest)
    except OpsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has enough; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def _collect(arguments: Arguments) -> None:
    from lerobot_ops.progress import counting
    from lerobot_ops.recording.collect import CollectConfig, collect

    config = _parse(CollectConfig, arguments, "collect")
    with counting("collect", config.num_episodes) as count:
        result = collect(config, on_episode=count)
    print(f"{result.root}: {result.episodes} episodes, {result.frames} frames, {result.failures} without success")


def _teleoperate(arguments: Arguments) -> None:
    from lerobot_ops.recording.config import TeleoperateConfig
    from lerobot_ops.recording.teleoperate import teleoperate
    from lerobot_ops.recording.terminal import Terminal

    print(teleoperate(_parse(TeleoperateConfig, arguments, "teleoperate"), Terminal()))


def _record(arguments: Arguments) -> None:
    from lerobot_ops.recording.config import RecordConfig
    from lerobot_ops.recording.record import record
    from lerobot_ops.recording.terminal import Terminal

    print(record(_parse(RecordConfig, arguments, "record"), Terminal()))


def _replay(arguments: Arguments) -> None:
    from lerobot_ops.recording.config import ReplayConfig
    from lerobot_ops.recording.replay import replay
    from lerobot_ops.recording.terminal import Terminal

    print(replay(_parse(ReplayConfig, arguments, "replay"), Terminal()))


def _validate(arguments: Arguments) -> None:
    from lerobot_ops.datasets.validation.command import CheckConfig, check

    config = _parse(CheckConfig, arguments, "validate", "root")
    report = check(config)
    print(report.model_dump_json(indent=2) if config.as_json else report.markdown())
    report.raise_if()


def _edit(arguments: Arguments) -> None:
    from lerobot_ops.datasets.editing.command import EditConfig, edit

    for outcome in edit(_parse(EditConfig, arguments, "edit", "root")):
        print(outcome)


def _repair(arguments: Arguments) -> None:
    from lerobot_ops.datasets.repairing.repair import RepairConfig, repair

    result = repair(_parse(RepairConfig, arguments, "repair", "root"))
    print(result)
    sys.exit(1 if result.remaining else 0)


def _convert(arguments: Arguments) -> None:
    from lerobot_ops.datasets.converting.convert import ConvertConfig, convert

    print(convert(_parse(ConvertConfig, arguments, "convert", "root")))


def _viz(arguments: Arguments) -> None:
    from lerobot_ops.datasets.viewing.viz import VizConfig, viz

    print(viz(_parse(VizConfig, arguments, "viz", "root")))


def _train(arguments: Arguments) -> None:
    from lerobot_ops.training.lerobot_settings import goes_on_from
    from lerobot_ops.training.ranks import is_main, quiet_torch

    quiet_torch()
    from lerobot_ops.evaluation.in_training import TrainCommand, train_evaluated

    config = _parse(TrainCommand, goes_on_from(arguments), "train")
    if config.dry_run:
        from lerobot_ops.training.dry_run import dry_run

        if is_main():
            print(dry_run(config))
        return
    result = train_evaluated(config, config.tracking)
    if is_main():
        print(f"{result.checkpoint}: trained for {result.steps} steps")


def _eval(arguments: Arguments) -> None:
    from lerobot_ops.evaluation.tracked import TrackedEvalConfig, evaluate_tracked
    from lerobot_ops.progress import counting

    config = _parse(TrackedEvalConfig, arguments, "eval")
    with counting("evaluate", len(config.episodes())) as count:
        result = evaluate_tracked(config, config.tracking, on_record=count)
    print(f"{result.output_dir}: pc_success {result.summary()}, in a sandbox of kind {result.sandbox}")


def _merge_shards(arguments: Arguments) -> None:
    from lerobot_ops.evaluation.shards import MergeConfig, merge_shards

    config = _parse(MergeConfig, arguments, "merge-shards")
    result = merge_shards(config.shards, config.output_dir)
    print(f"{result.output_dir}: pc_success {result.summary()}, from {len(config.shards)} shards")


def _compare(arguments: Arguments) -> None:
    from lerobot_ops.evaluation.comparison import CompareConfig, compare_evaluations, raise_if

    config = _parse(CompareConfig, arguments, "compare", "before", "after")
    comparison = compare_evaluations(config)
    print(comparison.model_dump_json(indent=2) if config.as_json else comparison)
    raise_if(comparison, config.fail_on)


def _health(arguments: Arguments) -> None:
    from lerobot_ops.evaluation.health import HealthConfig, health

    print(health(_parse(HealthConfig, arguments, "health", "output")))


def _publish(arguments: Arguments) -> None:
    from lerobot_ops.hub.publish import PublishConfig, publish

    receipt = publish(_parse(PublishConfig, arguments, "publish"))
    print(receipt.model_dump_json(indent=2))


def _pull(arguments: Arguments) -> None:
    from lerobot_ops.hub.pull import PullConfig, pull

    pulled = pull(_parse(PullConfig, arguments, "pull", "repo_id", "output"))
    print(f"{pulled.output}: {pulled.files} files, version {pulled.digest}")


def _migrate(arguments: Arguments) -> None:
    from lerobot_ops.policies.conversion import ConversionConfig, migrate

    print(migrate(_parse(ConversionConfig, arguments, "migrate", "path", "output")))


def _merge_adapter(arguments: Arguments) -> None:
    from lerobot_ops.policies.conversion import ConversionConfig, merge_adapter

    print(merge_adapter(_parse(ConversionConfig, arguments, "merge-adapter", "path", "output")))


def _info(arguments: Arguments) -> None:
    from lerobot_ops.datasets.describing.describe import InfoConfig, info

    print(info(_parse(InfoConfig, arguments, "info", "root")))


def _find_port(arguments: Arguments) -> None:
    from lerobot_ops.hardware import FindPortConfig, find_port, list_ports, show_ports

    config = _parse(FindPortConfig, arguments, "find-port")
    print(show_ports(list_ports(config), config.as_json))
    if config.unplug and not config.as_json and sys.stdin.isatty():
        print(f"The arm is on {find_port(config).port}; plug it in again.")


def _find_cameras(arguments: Arguments) -> None:
    from lerobot_ops.cameras.finding import FindCamerasConfig, look, text

    config = _parse(FindCamerasConfig, arguments, "find-cameras", "kind")
    print(text(look(config), config.as_json))


def _setup_motors(arguments: Arguments) -> None:
    from lerobot_ops.hardware import SetUpConfig, setup_motors

    setup_motors(_parse(SetUpConfig, arguments, "setup-motors"))


def _calibrate(arguments: Arguments) -> None:
    from lerobot_ops.hardware import SetUpConfig, calibrate

    calibrate(_parse(SetUpConfig, arguments, "calibrate"))


def _images(arguments: Arguments) -> None:
    from lerobot_ops import envs
    from lerobot_ops.evaluation.images import build_image, list_images, prune_images

    action, *names = arguments or ["list"]
    if action not in ("build", "list", "prune"):
        raise ConfigError(
            "images has no such action", found=action, fix=did_you_mean(action, ["build", "list", "prune"])
        )
    if action == "build":
        # What a repository of the Hub needs is known once it is named: its image is built by the evaluation.
        known = [name for name in envs.benchmarks() if not envs.benchmark(name).untrusted]
        for name in names or known:
            image = build_image(name, on_line=lambda line: print(line, file=sys.stderr))
            print(f"{image.name}  {image.size / 1e6:.0f} MB  {image.digest}")
        return
    if action == "prune":
        from lerobot_ops.evaluation.sandbox.docker import sweep
        from lerobot_ops.evaluation.sandbox.engine import connect
        from lerobot_ops.evaluation.sandbox.leftovers import prune_cache

        for container in sweep(connect()):
            print(f"container {container}  removed")
        for folder in prune_cache():
            print(f"{folder}  removed")
    for image in list_images() if action == "list" else prune_images():
        removed = "removed" if action == "prune" else "current" if image.current else "older"
        print(f"{image.name}  {image.size / 1e6:.0f} MB  {image.digest}  {removed}")


def _simulate_arm(arguments: Arguments) -> None:
    from lerobot_ops.motors.simulator.command import SimulateArmConfig, run

    run(_parse(SimulateArmConfig, arguments, "simulate-arm"))


COMMANDS: dict[str, tuple[str, Callable[[Arguments], None]]] = {
    "collect": ("record a scripted expert in simulation as a LeRobotDataset", _collect),
    "teleoperate": ("lead a robot with a teleoperator", _teleoperate),
    "record": ("record a robot that a teleoperator or a policy leads as a LeRobotDataset", _record),
    "replay": ("send a recorded episode to a robot, and measure how closely it follows", _replay),
    "validate": ("check a dataset's format and quality", _validate),
    "edit": ("change episodes, features, tasks, videos or statistics, into a new dataset", _edit),
    "repair": ("save what can be saved of a damaged dataset, into a new directory", _repair),
    "convert": ("bring a dataset of format v2.0 or v2.1 to v3.0, into a new directory", _convert),
    "viz": ("show an episode as one HTML page, or in Rerun", _viz),
    "train": ("train a policy on a dataset", _train),
    "eval": ("measure a policy's success rate on a benchmark, in a sandbox", _eval),
    "merge-shards": ("make one evaluation of shards that were played apart", _merge_shards),
    "compare": ("say whether one evaluation is better than another of the same episodes", _compare),
    "health": ("show how every benchmark has done over time, as one HTML file", _health),
    "find-port": ("say which serial port an arm is on, and which motors answer there", _find_port),
    "find-cameras": ("list the cameras, and save a picture of each", _find_cameras),
    "setup-motors": ("give the motors of a new arm their ids, one at a time", _setup_motors),
    "calibrate": ("measure the middle and the ends of every joint of an arm", _calibrate),
    "publish": ("put a dataset, a checkpoint or a report on a hub", _publish),
    "pull": ("fetch a checkpoint from a hub into a folder", _pull),
    "migrate": ("write a checkpoint from before LeRobot's processors anew", _migrate),
    "merge-adapter": ("make an adapter (LoRA) and its base one plain checkpoint", _merge_adapter),
    "info": ("describe a dataset, a checkpoint or this installation", _info),
    "simulate-arm": ("simulate arms behind serial ports, for every program that opens one", _simulate_arm),
    "images": ("build, list or prune the benchmarks' container images", _images),
}
COMPUTE = {"train", "eval"}
"""Those that go through gigabytes of memory again and again."""


def _parse(model: Any, arguments: Arguments, command: str, *positional: str) -> Any:
    """The command's configuration, or its help; `positional` are the fields that the first arguments are for."""
    from lerobot_ops.flags import describe, parse

    if any(argument in ("-h", "--help") for argument in arguments):
        places = "".join(f" [{name.upper()}]" for name in positional)
        print(f"lerobot-ops {command}{places}: {COMMANDS[command][0]}\n")
        print("  --config_path FILE[:SECTION]\n      a YAML or JSON file or a section of it; flags lie on top")
        for flag, kind, default, sentence in describe(model, arguments):
            print(f"  {flag} {kind} (default: {default})" + (f"\n      {sentence}" if sentence else ""))
        sys.exit(0)
    return parse(model, arguments, *positional)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {sentence}" for name, (sentence, _) in COMMANDS.items()]
    return "\n".join(["usage: lerobot-ops COMMAND [--flag=value ...]   (COMMAND --help lists its flags)", "", *lines])


if __name__ == "__main__":
    main()
