"""LeRobot's side of the training benchmark: `peer_training.py FILE [--seeded] FLAGS…`, a watched `lerobot-train`.

Run by the interpreter that has LeRobot. Its workers import this file again, as they import the command's own script.
"""

import sys
from pathlib import Path

from lerobot.scripts.lerobot_train import main

if __name__ == "__main__":
    from training_steps import watch

    file, *flags = sys.argv[1:]
    watch(Path(file), "--seeded" in flags)
    sys.argv = ["lerobot-train", *(flag for flag in flags if flag != "--seeded")]
    main()
