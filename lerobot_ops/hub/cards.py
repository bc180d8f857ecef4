"""The card of a published thing: front matter that the Hub reads, and a few facts; the same input, the same text."""

import json
from pathlib import Path
from typing import Any

import yaml


def card(kind: str, path: Path, repo_id: str) -> str:
    """The README.md of what lies at `path`."""
    if kind == "dataset":
        return _dataset_card(path, repo_id)
    if kind == "checkpoint":
        return _checkpoint_card(path, repo_id)
    return _page({"tags": ["LeRobot", "lerobot-ops"]}, repo_id, "The report of a pipeline run: open `report.html`.")


def _dataset_card(path: Path, repo_id: str) -> str:
    info = json.loads((path / "meta/info.json").read_text(encoding="utf-8"))
    front = {
        "license": "apache-2.0",
        "task_categories": ["robotics"],
        "tags": ["LeRobot"],
        "configs": [{"config_name": "default", "data_files": "data/*/*.parquet"}],
    }
    text = (
        f"A LeRobotDataset ({info['codebase_version']}): {info['total_episodes']} episodes, {info['total_frames']}"
        f" frames at {info['fps']} fps.\n\n`meta/info.json`:\n\n```json\n{json.dumps(info, indent=4)}\n```"
    )
    return _page(front, repo_id, text)


def _checkpoint_card(path: Path, repo_id: str) -> str:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    manifest_file = path / "manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8")) if manifest_file.exists() else {}
    front = {
        "library_name": "lerobot",
        "pipeline_tag": "robotics",
        "license": "apache-2.0",
        "tags": ["robotics", "lerobot", config["type"]],
    }
    facts = "\n".join(f"| {name} | `{value}` |" for name, value in sorted(manifest.items()))
    text = f"A policy of type `{config['type']}` in LeRobot's checkpoint layout.\n\n| what | value |\n|-|-|\n{facts}"
    return _page(front, repo_id, text)


def _page(front: dict[str, Any], title: str, text: str) -> str:
    return f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n\n# {title}\n\n{text}\n"
