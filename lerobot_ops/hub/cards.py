"""The card of a published thing: front matter that the Hub reads, and a few facts; the same input, the same text."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from lerobot_ops.hub.checkpoints import provenance


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
    training = _json(path / "train_config.json")
    dataset = (training.get("dataset") or {}).get("repo_id")
    adapter = _json(path / "adapter_config.json")
    front = {
        "library_name": "lerobot",
        "pipeline_tag": "robotics",
        "license": config.get("license") or "apache-2.0",
        "model_name": config["type"],
        "tags": sorted({"robotics", "lerobot", config["type"], *(config.get("tags") or ())}),
    }
    front |= {"datasets": dataset} if dataset else {}
    front |= {"base_model": base, "tags": [*front["tags"], "lora"]} if (base := _hub_name(adapter)) else {}
    rows = "\n".join(f"| {name} | `{value}` |" for name, value in sorted(provenance(path).items()))
    kind = "An adapter (LoRA) of a policy" if adapter else "A policy"
    text = (
        f"{kind} of type `{config['type']}` in LeRobot's checkpoint layout.\n\n"
        f"```bash\nlerobot-ops eval --policy.path={repo_id} --env.type=…\nlerobot-ops train --policy.path={repo_id} "
        f"--dataset.root=…\n```\n\n| what | value |\n|-|-|\n{rows}"
    )
    return _page(front, repo_id, text)


def _hub_name(adapter: dict[str, Any]) -> str | None:
    """The base of an adapter, if it is on the Hub."""
    base = str(adapter.get("base_model_name_or_path") or "")
    return base if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base) and not Path(base).exists() else None


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def _page(front: dict[str, Any], title: str, text: str) -> str:
    return f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n\n# {title}\n\n{text}\n"
