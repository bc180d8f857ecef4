"""Processor steps for policies that follow instructions: the task as text becomes tokens.

Tokenisers are those of `transformers`; one is loaded when a batch first needs it, from a folder or from the Hub, and
never with code of its repository.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lerobot_ops.errors import CheckpointError, DatasetError, PrerequisiteError
from lerobot_ops.processors.steps import Batch, Stateless

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASK = "task"
TOKENS = "observation.language.tokens"
"""int64 (B, L)."""
MASK = "observation.language.attention_mask"
"""bool (B, L): where there are tokens, and not padding."""
KEPT = 256
"""Instructions whose tokens are remembered: a dataset has few."""


class Tokenize(Stateless):
    """Add the tokens and the mask of a batch's instructions; a batch without any stays as it is."""

    registry_name = "tokenizer_processor"

    def __init__(
        self,
        tokenizer_name: str,
        max_length: int = 512,
        task_key: str = TASK,
        padding_side: str = "right",
        padding: str = "max_length",
        truncation: bool = True,
    ) -> None:
        self.settings = {
            "max_length": max_length,
            "task_key": task_key,
            "padding_side": padding_side,
            "padding": padding,
            "truncation": truncation,
            "tokenizer_name": tokenizer_name,
        }
        self._tokens = functools.lru_cache(KEPT)(self._tokenize)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Tokenize":
        return cls(**config)

    def config(self) -> dict[str, Any]:
        return dict(self.settings)

    def __call__(self, batch: Batch) -> Batch:
        task = batch.get(str(self.settings["task_key"]))
        if task is None:
            raise DatasetError(
                "the policy follows instructions, and there is none",
                field=str(self.settings["task_key"]),
                fix="record with a task's text, or write one with `lerobot-ops edit --operation.type=modify_tasks`",
            )
        tokens, mask = self._tokens((task,) if isinstance(task, str) else tuple(task))
        return {**batch, TOKENS: tokens, MASK: mask}

    def _tokenize(self, tasks: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        names = ("max_length", "padding", "padding_side", "truncation")
        options = {name: self.settings[name] for name in names}
        encoded = load_tokenizer(str(self.settings["tokenizer_name"]))(list(tasks), return_tensors="pt", **options)
        return encoded["input_ids"], encoded["attention_mask"].to(torch.bool)


class NewLine(Stateless):
    """End every instruction with a line break, as PaliGemma's and SmolVLM's prompts do."""

    registry_name = "smolvla_new_line_processor"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NewLine":
        return cls(**config)

    def __call__(self, batch: Batch) -> Batch:
        task = batch.get(TASK)
        if task is None:
            return batch
        return {**batch, TASK: _ended(task) if isinstance(task, str) else [_ended(text) for text in task]}


@functools.cache
def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokeniser of a folder, or of OWNER/NAME on the Hub.

    Raises PrerequisiteError without `transformers`, and CheckpointError when there is no such tokeniser.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise PrerequisiteError(
            "instructions cannot be read: transformers is not installed",
            found=name,
            fix="pip install 'lerobot-ops[multi_task_dit]'",
        ) from None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "the tokeniser cannot be loaded",
            field="tokenizer_name",
            found=f"{name}: {str(error).splitlines()[0]}",
            fix="give a folder with tokenizer.json, or a repository of the Hub",
        ) from None
    return tokenizer


def _ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"
