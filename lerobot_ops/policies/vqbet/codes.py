"""Chunks of actions as pairs of codes: an encoder, two codebooks of which the second refines the first, a decoder.

A residual VQ-VAE (Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312). Codebooks follow the vectors that choose
them by an exponential mean, not by gradients. State-dict names and shapes are LeRobot's. Shapes below: N chunks,
W actions of a chunk, A action, D width, K codes of a layer, L = 2 layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_ops.policies.vqbet.config import VQBeTConfig
from lerobot_ops.policies.vqbet.mlp import mlp

LAYERS = 2
DECAY = 0.8
"""Part of a codebook's mean that a step keeps."""
SMOOTHING = 1e-5
COMMITMENT_WEIGHT = 5


class VqVae(nn.Module):
    """Chunks (N, W, A) to codes (N, L) and back."""

    discretized: Tensor

    def __init__(self, config: VQBeTConfig) -> None:
        super().__init__()
        width, hidden = config.vqvae_embedding_dim, config.vqvae_enc_hidden_dim
        self.shape = (config.action_chunk_size, config.action_dim)
        size = config.action_chunk_size * config.action_dim
        self.register_buffer("discretized", torch.tensor(False))
        self.vq_layer = ResidualCodebooks(width, config.vqvae_n_embed)
        self.encoder = mlp(size, hidden, hidden, width)
        self.decoder = mlp(width, hidden, hidden, size)

    def forward(self, chunks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the mean error of an action's number, and the codes (N, L); in training codebooks learn."""
        actions = chunks.flatten(1)
        latent, codes, commitment = self.vq_layer(self.encoder(actions))
        error = (actions - self.decoder(latent)).abs().mean()
        return error + COMMITMENT_WEIGHT * commitment, error.detach(), codes

    @torch.no_grad()
    def encode(self, chunks: Tensor) -> Tensor:
        """The codes (N, L) of chunks."""
        codes: Tensor = self.vq_layer(self.encoder(chunks.flatten(1)))[1]
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The chunks (N, W, A) that codes (N, L) stand for."""
        chunks: Tensor = self.decoder(self.vq_layer.vectors(codes)).unflatten(-1, self.shape)
        return chunks

    def freeze(self) -> None:
        """End the first phase."""
        self.discretized.fill_(True)
        self.vq_layer.freeze_codebook.fill_(True)


class ResidualCodebooks(nn.Module):
    """Vectors (N, D) -> their sum of codes (N, D), the codes (N, L) and how far the vectors are from them."""

    freeze_codebook: Tensor

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, count) for _ in range(LAYERS))
        self.register_buffer("freeze_codebook", torch.tensor(False))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rest, chosen = vectors, torch.zeros_like(vectors)
        distance, codes = vectors.new_zeros(()), []
        for book in self._books():
            nearest, indices = book(rest, learns=self.training, frozen=self.freeze_codebook)
            if self.training:
                distance = distance + F.mse_loss(nearest, rest)
                nearest = rest + (nearest - rest).detach()  # its gradient goes straight through to the encoder
            rest = rest - nearest.detach()
            chosen = chosen + nearest
            codes.append(indices)
        return chosen, torch.stack(codes, dim=-1), distance

    def vectors(self, codes: Tensor) -> Tensor:
        """The sum (N, D) of what codes (N, L) stand for."""
        found = [book.embed[0][codes[:, number]] for number, book in enumerate(self._books())]
        return torch.stack(found).sum(dim=0)

    def _books(self) -> "list[Codebook]":
        return [layer._codebook for layer in self.layers if isinstance(layer, Layer)]


class Layer(nn.Module):
    """A codebook under the name that checkpoints know it by."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self._codebook = Codebook(width, count)


class Codebook(nn.Module):
    """K vectors, each the mean of the vectors that were nearest to it lately; the leading 1 of buffers is LeRobot's."""

    cluster_size: Tensor
    embed_avg: Tensor
    embed: Tensor

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        embed = nn.init.kaiming_uniform_(torch.empty(1, count, width))
        self.register_buffer("initted", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(1, count))
        self.register_buffer("embed_avg", embed.clone())
        self.register_buffer("embed", embed)

    @torch.no_grad()
    def forward(self, vectors: Tensor, *, learns: bool, frozen: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest code of each vector: as a vector (N, D) and as its number (N,)."""
        vectors, embed = vectors.detach().float(), self.embed[0]
        squares = (vectors**2).sum(-1, keepdim=True) + (embed**2).sum(-1) - 2 * vectors @ embed.T
        indices = squares.clamp(min=0).sqrt().argmin(dim=-1)
        nearest = embed[indices]
        if learns:
            self._follow(vectors, F.one_hot(indices, len(embed)).to(vectors.dtype), keep=frozen)
        return nearest, indices

    def _follow(self, vectors: Tensor, chosen: Tensor, keep: Tensor) -> None:
        """Move every code towards the vectors that chose it (N, K), unless `keep`: no branch, so no device waits."""
        size = self.cluster_size.lerp(chosen.sum(dim=0, keepdim=True), 1 - DECAY)
        total = self.embed_avg.lerp((chosen.T @ vectors).unsqueeze(0), 1 - DECAY)
        count = size.sum(dim=-1, keepdim=True)
        smooth = (size + SMOOTHING) / (count + size.shape[-1] * SMOOTHING) * count
        moved = {"cluster_size": size, "embed_avg": total, "embed": total / smooth.unsqueeze(-1)}
        for name, value in moved.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.where(keep, buffer, value))
