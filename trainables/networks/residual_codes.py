"""Residual codes of vectors: the index of the nearest centre, then that of the residual's nearest centre, and so on.

Shape suffixes: N vectors, D dims, Q rounds, C codes of a round.
"""

from __future__ import annotations

import torch

ROUNDS_OF_LLOYD = 50
MOST_VECTORS = 50_000
"""Vectors that centres are fitted to, evenly spaced among all."""


def nearest(vectors_ND: torch.Tensor, centres_CD: torch.Tensor) -> torch.Tensor:
    """Return the index [N] of each vector's nearest centre."""
    return (centres_CD.square().sum(-1) - 2 * vectors_ND @ centres_CD.T).argmin(-1)


def codes_of(vectors_ND: torch.Tensor, codebooks_QCD: torch.Tensor) -> torch.Tensor:
    """Return the codes [N, Q] of vectors in all rounds."""
    left_ND, found = vectors_ND, []
    for centres_CD in codebooks_QCD.unbind(0):
        found.append(nearest(left_ND, centres_CD))
        left_ND = left_ND - centres_CD[found[-1]]
    return torch.stack(found, dim=-1)


def fit_codebooks(vectors_ND: torch.Tensor, rounds: int, codes: int) -> torch.Tensor:
    """Return codebooks [Q, C, D] by k-means of the vectors, then of their residuals; the data alone decide them."""
    step = -(-len(vectors_ND) // MOST_VECTORS)
    left_ND = vectors_ND[::step].double()
    generator, books = torch.Generator().manual_seed(0), list[torch.Tensor]()
    for _ in range(rounds):
        centres_CD = _k_means(left_ND, codes, generator)
        left_ND = left_ND - centres_CD[nearest(left_ND, centres_CD)]
        books.append(centres_CD)
    return torch.stack(books).float()


def _k_means(vectors_ND: torch.Tensor, codes: int, generator: torch.Generator) -> torch.Tensor:
    """Return centres [C, D]: k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's steps."""
    first = int(torch.randint(len(vectors_ND), (1,), generator=generator))
    chosen = [vectors_ND[first]]
    distance_N = (vectors_ND - chosen[0]).square().sum(-1)
    while len(chosen) < codes:
        place = float(torch.rand(1, generator=generator)) * distance_N.sum()
        index = int(torch.searchsorted(distance_N.cumsum(0), place).clamp(max=len(vectors_ND) - 1))
        chosen.append(vectors_ND[index])
        distance_N = torch.minimum(distance_N, (vectors_ND - chosen[-1]).square().sum(-1))
    centres_CD = torch.stack(chosen)
    for _ in range(ROUNDS_OF_LLOYD):
        code_N = nearest(vectors_ND, centres_CD)
        counts_C1 = torch.bincount(code_N, minlength=codes)[:, None]
        sums_CD = torch.zeros_like(centres_CD).index_add_(0, code_N, vectors_ND)
        moved_CD = torch.where(counts_C1 > 0, sums_CD / counts_C1.clamp(min=1), centres_CD)
        if torch.equal(moved_CD, centres_CD):
            break
        centres_CD = moved_CD
    return centres_CD
