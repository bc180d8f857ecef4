"""Robots by `type`: ours, and what installed packages add through the entry-point group `lerobot_ops.robots`."""
