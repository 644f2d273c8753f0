"""Linear-chain conditional random field (Lafferty et al. 2001), vectorised over the batch.

With scores s_t(k) of the network, transitions A(j, k), start b(k) and end e(k), a labelling y has the score

    S(y) = b(y_1) + Σ_t s_t(y_t) + Σ_t A(y_{t−1}, y_t) + e(y_T),     p(y) = exp S(y) / Z.

Decoding without torch is in ``models.tagger.decode``; here is what training needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FORBIDDEN = -1.0e4  # added to forbidden moves: exp of it is 0 in every float format, and gradients stay finite
NEVER = -1.0e30  # in its place where the best labelling is searched


class CRF(nn.Module):
    """Transitions between ``labels`` labels.

    Args:
        labels: K.
        allowed: boolean (start (K), moves (K, K), end (K)); forbidden moves get probability 0. None allows all.
    """

    def __init__(self, labels: int, allowed: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(labels))
        self.moves = nn.Parameter(torch.zeros(labels, labels))
        self.end = nn.Parameter(torch.zeros(labels))
        start, moves, end = allowed or (torch.ones(labels), torch.ones(labels, labels), torch.ones(labels))
        for name, mask in (("start", start), ("moves", moves), ("end", end)):
            self.register_buffer(f"{name}_penalty", (~mask.bool()).float() * FORBIDDEN, persistent=False)

    def parameters_with_masks(self) -> tuple[Tensor, Tensor, Tensor]:
        """(start (K), moves (K, K), end (K)) with ``FORBIDDEN`` added where a move is not allowed."""
        return (
            self.start + self.get_buffer("start_penalty"),
            self.moves + self.get_buffer("moves_penalty"),
            self.end + self.get_buffer("end_penalty"),
        )

    def loss(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Negative log-likelihood per token.

        Args:
            scores: (B, T, K).
            labels: (B, T) int64; what stands outside the mask is not read.
            mask: (B, T) bool, true from the first token to the last of each sentence.

        Returns:
            A scalar, in nats.
        """
        scores = scores.float()
        per_token: Tensor = (self.log_partition(scores, mask) - self.score(scores, labels, mask)).sum() / mask.sum().clamp(min=1)
        return per_token.float()

    def score(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """S(labels) of each sentence: (B,)."""
        start, moves, end = (parameter.double() for parameter in self.parameters_with_masks())
        scores = scores.double()
        labels = labels.masked_fill(~mask, 0)
        unary = scores.gather(2, labels.unsqueeze(2)).squeeze(2) * mask  # (B, T)
        pair = moves[labels[:, :-1], labels[:, 1:]] * mask[:, 1:]  # (B, T − 1)
        last = labels.gather(1, (mask.sum(1, keepdim=True) - 1).clamp(min=0)).squeeze(1)
        return start[labels[:, 0]] + unary.sum(1) + pair.sum(1) + end[last]

    def log_partition(self, scores: Tensor, mask: Tensor) -> Tensor:
        """log Z of each sentence: (B,). One matrix product per position, in exponentials scaled by the row's maximum.

        In double precision: a label that is e⁻²⁰⁰ times as likely so far may be the only one that the rest allows, and
        autocast leaves double precision alone.
        """
        start, moves, end = (parameter.double() for parameter in self.parameters_with_masks())
        scores = scores.double()
        alpha = start + scores[:, 0]  # (B, K)
        step = moves.exp()
        for t in range(1, scores.shape[1]):
            top = alpha.amax(dim=1, keepdim=True).detach()
            after = ((alpha - top).exp() @ step).clamp(min=1e-300).log() + top + scores[:, t]
            alpha = torch.where(mask[:, t : t + 1], after, alpha)
        return torch.logsumexp(alpha + end, dim=1)

    @torch.no_grad()
    def viterbi(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Best labelling of each sentence: (B, T) int64, 0 outside the mask."""
        # However long the sentence: no score makes up for a forbidden move.
        start, moves, end = (each.masked_fill(each < FORBIDDEN / 2, NEVER) for each in self.parameters_with_masks())
        best = start + scores[:, 0]  # (B, K)
        origins = []
        for t in range(1, scores.shape[1]):
            value, origin = (best.unsqueeze(2) + moves).max(dim=1)  # (B, K)
            inside = mask[:, t : t + 1]
            best = torch.where(inside, value + scores[:, t], best)
            # Outside the sentence each label comes from itself, so that the way back starts at the last token.
            origins.append(torch.where(inside, origin, torch.arange(scores.shape[2], device=scores.device)))
        labels = [(best + end).argmax(dim=1, keepdim=True)]
        for origin in reversed(origins):
            labels.append(origin.gather(1, labels[-1]))
        return torch.cat(labels[::-1], dim=1) * mask
