"""Teleoperators by `type`: ours, and those of the entry-point group `lerobot_ops.teleoperators`."""
