"""LeRobot in its own environment: `peer_policies.py OUT` computes the cases; `exchange` and `resume` take a FOLDER.

`exchange` acts with every checkpoint FOLDER/ours/*, and writes one for every case of `EXCHANGED` in FOLDER/theirs/*
and acts with it, too. Checkpoints are loaded strictly, with their processors; what is done in the observations of
NAME.npz is left in NAME.npy, one after the other, with `known_draws`. `resume` loads all of FOLDER, its training state
too, makes a step, and prints the schedule's step and how many parameters have a state.
"""

import importlib.util
import json
import sys
from pathlib import Path

import draccus
import numpy as np
import policy_cases as cases
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.optim.optimizers import load_optimizer_state
from lerobot.optim.schedulers import load_scheduler_state
from lerobot.policies.factory import get_policy_class, make_pre_post_processors


def compute(name: str) -> dict:
    values = cases.config_values(name)
    config = draccus.decode(PreTrainedConfig, {**values, "device": "cpu"})
    policy = get_policy_class(values["type"])(config)
    cases.fill(policy)
    policy.eval()

    def chunk(observations: dict[str, torch.Tensor]) -> torch.Tensor:
        """What it plans after the last of the observations, which it is shown one by one."""
        steps = config.n_obs_steps
        for step in range(steps):
            seen = {key: value[:, step] for key, value in observations.items()}
            images = [seen[key] for key in config.image_features]
            seen = {key: value for key, value in seen.items() if key not in config.image_features}
            if images:
                seen["observation.images"] = torch.stack(images, dim=-4)
            for key, value in seen.items():
                policy._queues[key].append(value)
        return policy.predict_action_chunk(seen)

    return cases.compute(name, policy, chunk)


def exchange(folder: Path) -> None:
    for number, name in enumerate(cases.EXCHANGED):
        write(folder / "theirs" / str(number), name)
        if name in cases.ADAPTED and peft_is_there():
            write_adapter(folder / "theirs" / str(number))
    for checkpoint in sorted([*folder.glob("ours/*"), *folder.glob("theirs/*")]):
        if checkpoint.is_dir() and (peft_is_there() or not (checkpoint / "adapter_config.json").exists()):
            np.save(checkpoint.with_suffix(".npy"), act(checkpoint, folder / f"{checkpoint.name}.npz"))
    print(json.dumps({"peft": peft_is_there()}))


def write(folder: Path, name: str) -> None:
    values = cases.config_values(name)
    config = draccus.decode(PreTrainedConfig, {**values, "device": "cpu"})
    policy = get_policy_class(values["type"])(config)
    cases.fill(policy)
    policy.save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=cases.stats()):
        processor.save_pretrained(folder)


def write_adapter(base: Path) -> None:
    """As `lerobot-train` makes and saves one."""
    config = PreTrainedConfig.from_pretrained(base)
    config.pretrained_path = base
    policy = get_policy_class(config.type).from_pretrained(base, config=config, strict=True)
    options = {"r": 2, "target_modules": cases.ADAPTED[config.type], "method_type": "LORA"}
    policy = policy.wrap_with_peft(peft_cli_overrides=options)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    folder = base.with_name(f"{base.name}_adapted")
    policy.save_pretrained(folder)
    policy.config.save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=cases.stats()):
        processor.save_pretrained(folder)


def act(folder: Path, shown: Path) -> np.ndarray:
    config = PreTrainedConfig.from_pretrained(folder)
    if config.use_peft:
        policy = adapted(folder, config)
    else:
        policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True).eval()
    pre, post = make_pre_post_processors(config, pretrained_path=str(folder))
    with np.load(shown) as content:
        observations = {key: torch.from_numpy(content[key]) for key in content.files}
    with cases.known_draws():
        actions = [
            post(policy.select_action(pre({key: value[step] for key, value in observations.items()} | cases.TASK)))
            for step in range(cases.STEPS)
        ]
    return torch.stack(actions).numpy()


def peft_is_there() -> bool:
    return importlib.util.find_spec("peft") is not None


def adapted(folder: Path, config: PreTrainedConfig) -> torch.nn.Module:
    """As `lerobot.policies.factory.make_policy` loads an adapter, whose configuration names the base."""
    from peft import PeftConfig, PeftModel

    peft_config = PeftConfig.from_pretrained(folder)
    base = peft_config.base_model_name_or_path
    policy = get_policy_class(config.type).from_pretrained(base, config=config, strict=True)
    return PeftModel.from_pretrained(policy, folder, config=peft_config).eval()


def resume(folder: Path) -> None:
    config = PreTrainedConfig.from_pretrained(folder / "pretrained_model")
    policy = get_policy_class(config.type).from_pretrained(folder / "pretrained_model", config=config, strict=True)
    optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
    scheduler = config.get_scheduler_preset().build(optimizer, 100)
    load_optimizer_state(optimizer, folder / "training_state")
    load_scheduler_state(scheduler, folder / "training_state")
    optimizer.step()
    scheduler.step()
    print(json.dumps({"step": scheduler.last_epoch, "states": len(optimizer.state)}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] in ("exchange", "resume"):
        {"exchange": exchange, "resume": resume}[sys.argv[1]](Path(sys.argv[2]))
    else:
        computed = {name: compute(name) for name in cases.CASES}
        Path(sys.argv[1]).write_text(json.dumps(computed, indent=1) + "\n")
