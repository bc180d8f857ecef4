"""Multi-task DiT: a diffusion transformer that follows instructions.

Actions begin as noise, and a transformer that knows the cameras, the state and the instruction turns them into a chunk,
by diffusion or along a flow (https://arxiv.org/abs/2507.05331). State-dict names and shapes are LeRobot's. Shapes
below: B batch, T horizon, A action.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lerobot_ops.policies.draws import Draws
from lerobot_ops.policies.losses import mean_without_padding
from lerobot_ops.policies.multi_task_dit.config import MultiTaskDiTConfig
from lerobot_ops.policies.multi_task_dit.encoder import ObservationEncoder
from lerobot_ops.policies.multi_task_dit.objectives import Diffusion, FlowMatching
from lerobot_ops.policies.multi_task_dit.transformer import DiffusionTransformer
from lerobot_ops.policies.policy import Policy
from lerobot_ops.processors.features import ACTION
from lerobot_ops.processors.steps import Batch

VISION = "observation_encoder.vision_encoder"


class MultiTaskDiTPolicy(Policy):
    """The network with its objective."""

    config: MultiTaskDiTConfig

    def __init__(self, config: MultiTaskDiTConfig, *, pretrained_backbone: bool = True) -> None:
        super().__init__(config)
        self.observation_encoder = ObservationEncoder(config, pretrained=pretrained_backbone)
        self.noise_predictor = DiffusionTransformer(config, self.observation_encoder.features)
        self.objective = Diffusion(config) if config.objective == "diffusion" else FlowMatching(config)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        error = self.objective.error(self.noise_predictor, batch[ACTION], self.observation_encoder(batch))
        if not self.config.do_mask_loss_for_padding:
            return error.mean(), {}
        return mean_without_padding(error, batch["action_is_pad"]), {}

    @torch.no_grad()
    def predict_chunk(self, batch: Batch, draws: Draws | None = None) -> Tensor:
        """Actions (B, n_action_steps, A), from the present one on."""
        seen, draws = self.observation_encoder(batch), draws or Draws()
        noise = draws.randn((len(seen), self.config.horizon, self.config.action_dim), seen)
        actions = self.objective.sample(self.noise_predictor, noise, seen, draws)
        start = self.config.n_obs_steps - 1
        return actions[:, start : start + self.config.n_action_steps]

    def adapts(self, name: str, module: nn.Module) -> bool:
        seen = name.startswith(VISION) and name.endswith(("q_proj", "v_proj"))
        return type(module) is nn.Linear and (seen or not name.startswith(VISION))

    def parameter_groups(self) -> list[dict[str, Any]]:
        learned = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        others = [parameter for name, parameter in learned if not name.startswith(VISION)]
        vision = [parameter for name, parameter in learned if name.startswith(VISION)]
        rate = self.config.optimizer_lr * self.config.vision_encoder_lr_multiplier
        return [{"params": others}, {"params": vision, "lr": rate}]
