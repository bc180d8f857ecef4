"""Our side of the training benchmark: `ours_training.py FILE [--seeded] FLAGS…`, a watched `lerobot-ops train`."""

import sys
from pathlib import Path

from lerobot_ops.cli import main
from lerobot_ops.large_pages import ask_for_large_pages

if __name__ == "__main__":
    ask_for_large_pages()  # as the command does
    from training_steps import watch

    file, *flags = sys.argv[1:]
    watch(Path(file), "--seeded" in flags)
    sys.exit(main(["train", *(flag for flag in flags if flag != "--seeded")]))
