"""Policies by `type`: ours, and what installed packages add through the entry-point group `lerobot_ops.policies`.

A policy is two things: a configuration (a `PolicyConfig`, free of heavy imports) and the class that the former's
`policy_class()` gives (a torch module, see `policies.policy`). An entry point, named after the type, points to the
configuration.
"""

from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.policies.registry import AnyPolicyConfig, load_policy, make_policy, parse_policy_config, policy_types

__all__ = ["AnyPolicyConfig", "PolicyConfig", "load_policy", "make_policy", "parse_policy_config", "policy_types"]
