"""LeRobot's datasets, policies and benchmarks as plain operations that flows, stages and the command line call."""

__version__ = "0.1.0"
