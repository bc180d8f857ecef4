"""Our side of the training benchmark: `ours_training.py FILE [--seeded] FLAGS…`, a watched `lerobot-ops train`."""

import sys
from pathlib import Path

from lerobot_ops.cli import main

if __name__ == "__main__":
    from training_steps import watch

    file, *flags = sys.argv[1:]
    watch(Path(file), "--seeded" in flags)
    sys.exit(main(["train", *(flag for flag in flags if flag != "--seeded")]))
