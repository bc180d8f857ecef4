"""Observation and action processing around a policy, saved as LeRobot's processor JSON and safetensors."""
