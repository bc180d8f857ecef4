"""Processes for tests that kill them: forked from a server that has imported what they need, so one begins in 0.1 s.

A process has one such server, and what it imports is settled when it starts: hence one list for all tests.
"""

import multiprocessing

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [
        "pytest",
        "pandas",
        "PIL.PngImagePlugin",
        "lerobot_ops.cli",
        "lerobot_ops.datasets.editing.edit",
        "lerobot_ops.datasets.reader",
        "lerobot_ops.datasets.writing.writer",
        "lerobot_ops.training.train",
        "lerobot_ops.evaluation.in_training",
        "lerobot_ops.policies.act.model",
        "torch.distributed.fsdp",
        "torch._dynamo",  # by DistributedDataParallel
    ]
)
