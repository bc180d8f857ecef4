"""A recording in a process of its own, for tests that kill it: `python sessions.py FILE`.

FILE is JSON: `config`, `takes` (a list of [frames, event]) and says on standard output what happens.
"""

import json
import sys
from pathlib import Path

from lerobot_ops.flags import build
from lerobot_ops.recording.config import RecordConfig
from lerobot_ops.recording.operator import Event, Schedule, Take
from lerobot_ops.recording.record import record


class Telling(Schedule):
    """A schedule that says aloud what happens."""

    def phase(self, name: str) -> None:
        super().phase(name)
        print(f"phase {name}", flush=True)

    def say(self, message: str) -> None:
        print(message, flush=True)


def main(file: Path) -> None:
    asked = json.loads(file.read_text())
    takes = [Take(frames, Event(event)) for frames, event in asked.get("takes", [])]
    print(record(build(RecordConfig, asked["config"], source=file), Telling(takes)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
