"""Rules that combine clients' updates and resist a few hostile ones: median, trimmed mean, norm clipping, (multi-)Krum.

Every rule takes the updates of one model type's clients and gives the same bits for any order of the rows, so for any
number of ranks that they came from. Rows are read in tiles: no rule holds a float64 copy of them all.

Shape letters: K clients, P parameters, T parameters of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from heterotune.aggregation.distances import check_finite, clip_factors, squared_distances, update_norms
from heterotune.aggregation.exact import ExactSum, add_in_order
from heterotune.config.fault_options import AggregateOptions, Rule, most_attackers
from heterotune.errors import AggregationError

_TILE_ELEMENTS = 1 << 20


def robust_update(
    update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int], options: AggregateOptions
) -> tuple[Tensor, tuple[int, ...]]:
    """Combine the updates of one model type's clients by the rule that a run asks for.

    Args:
        update_KP: One row per client, float32 or float64. Not changed.
        weight_K: Each client's share of its type's rows, float64, sums to 1. Only means are weighted: a client says
            itself how many rows it has, so medians, trimmed means and Krum's choice ignore it.
        client_ids: K client ids.
        options: The rule.

    Returns:
        The combined update, float64, shape (P,), and the ids of the clients that count in full.

    Raises:
        AggregationError: If the clients are too few for the rule, or an update is not finite; names the client.
    """
    num_clients, everybody = len(client_ids), tuple(sorted(client_ids))
    if options.rule == "mean":
        return exact_mean(update_KP, weight_K, client_ids), everybody
    if options.rule == "median":
        return coordinate_median(update_KP, client_ids), everybody
    num_attackers = options.num_attackers(num_clients)
    if options.rule == "trimmed_mean":
        return trimmed_mean(update_KP, client_ids, num_trimmed=num_attackers), everybody
    if options.rule == "norm_clipping":
        assert options.max_norm is not None
        return norm_clipping(update_KP, weight_K, client_ids, max_norm=options.max_norm)
    num_selected = options.num_chosen(num_clients)
    return multi_krum(update_KP, weight_K, client_ids, num_attackers=num_attackers, num_selected=num_selected)


def coordinate_median(update_KP: Tensor, client_ids: Sequence[int]) -> Tensor:
    """Return the median of every coordinate; of an even number of clients, the mean of the two middle values.

    Fewer than half of the clients, whatever they send, cannot move a coordinate out of the range of the others.

    Args:
        update_KP: One row per client, float32 or float64. Not changed.
        client_ids: K client ids, for messages.

    Returns:
        float64, shape (P,).

    Raises:
        AggregationError: If there is no client, or an update is not finite.

    Source: Yin et al., "Byzantine-Robust Distributed Learning", 2018.
    """
    _check_clients("median", len(client_ids), 0)
    low, high = (len(client_ids) - 1) // 2, len(client_ids) // 2
    return _by_sorted_tiles(update_KP, client_ids, lambda sorted_KT: (sorted_KT[low] + sorted_KT[high]) / 2)


def trimmed_mean(update_KP: Tensor, client_ids: Sequence[int], *, num_trimmed: int) -> Tensor:
    """Return, for every coordinate, the mean of the clients without the `num_trimmed` lowest and highest values.

    Up to `num_trimmed` hostile clients cannot move a coordinate out of the range of the others.

    Args:
        update_KP: One row per client, float32 or float64. Not changed.
        client_ids: K client ids, for messages.
        num_trimmed: Clients cut at each side, at least 0; K must be at least 2 * num_trimmed + 1.

    Returns:
        float64, shape (P,).

    Raises:
        AggregationError: If nobody would be left, or an update is not finite.

    Source: Yin et al., "Byzantine-Robust Distributed Learning", 2018. Unweighted, as there.
    """
    _check_clients("trimmed_mean", len(client_ids), num_trimmed)
    kept = slice(num_trimmed, len(client_ids) - num_trimmed)
    return _by_sorted_tiles(update_KP, client_ids, lambda sorted_KT: _mean_in_order(sorted_KT[kept]))


def norm_clipping(
    update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int], *, max_norm: float
) -> tuple[Tensor, tuple[int, ...]]:
    """Return Σ_k w_k min(1, max_norm / ‖u_k‖) u_k and the ids of the clients that were not clipped.

    The factor joins the client's weight, and the sum is exact: ranks can add their own clients first.

    Args:
        update_KP: One row per client, float32 or float64. Not changed.
        weight_K: Each client's share, float64, sums to 1.
        client_ids: K client ids.
        max_norm: Longest update that counts in full, above 0.

    Raises:
        AggregationError: If an update is not finite or too large for an exact sum.

    Source: Sun et al., "Can You Really Backdoor Federated Learning?", 2019.
    """
    norm_K = update_norms(update_KP, client_ids)
    factor_K = clip_factors(norm_K, max_norm)
    unclipped = (client_id for client_id, factor in zip(client_ids, factor_K.tolist(), strict=True) if factor == 1.0)
    return exact_mean(update_KP, weight_K * factor_K, client_ids), tuple(sorted(unclipped))


def krum(update_KP: Tensor, client_ids: Sequence[int], *, num_attackers: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return the update of the one client that lies closest to its K - f - 2 nearest others, and that client's id.

    Args and errors: see `multi_krum`.
    """
    alone_K = torch.ones(len(client_ids), dtype=torch.float64)
    return multi_krum(update_KP, alone_K, client_ids, num_attackers=num_attackers, num_selected=1)


def multi_krum(
    update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int], *, num_attackers: int, num_selected: int
) -> tuple[Tensor, tuple[int, ...]]:
    """Return the weighted mean of the clients with the best Krum scores, and their ids.

    score(k) = sum of the K - f - 2 smallest ‖u_k - u_j‖² over the other clients j; the smaller, the better.

    Args:
        update_KP: One row per client, float32 or float64. Not changed.
        weight_K: Each client's share, float64; the chosen ones' are scaled to sum to 1.
        client_ids: K client ids; the lower id wins a tie.
        num_attackers: f; K must be at least 2f + 3.
        num_selected: Clients to average, 1 to K - f.

    Returns:
        float64, shape (P,), and the chosen ids in order.

    Raises:
        AggregationError: If there are too few clients, too many are asked for, or an update is not finite.

    Source: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", 2017.
    """
    num_clients = len(client_ids)
    _check_clients("multi_krum", num_clients, num_attackers)
    if not 1 <= num_selected <= num_clients - num_attackers:
        most = num_clients - num_attackers
        told = f"multi_krum cannot take {num_selected} of {num_clients} clients of which {num_attackers} may be hostile"
        raise AggregationError(f"{told}. Give num_selected from 1 to {most}.")
    score_K = krum_scores(squared_distances(update_KP, client_ids), num_attackers=num_attackers)
    by_score = sorted(range(num_clients), key=lambda place: (score_K[place], client_ids[place]))
    chosen = sorted(by_score[:num_selected], key=lambda place: client_ids[place])
    share_K = weight_K / add_in_order(weight_K[chosen])
    exact = ExactSum(update_KP.shape[1])
    for place in chosen:  # one by one: no copy of the chosen rows
        exact.add(update_KP[place : place + 1], share_K[place : place + 1], client_ids[place : place + 1])
    return exact.to_float64(num_clients=num_selected), tuple(client_ids[place] for place in chosen)


def krum_scores(distance_KK: Tensor, *, num_attackers: int) -> list[float]:
    """Return Σ of the K - f - 2 smallest squared distances of each client to others, added from small to large."""
    num_clients = len(distance_KK)
    without_self = distance_KK.clone().fill_diagonal_(float("inf"))
    nearest = without_self.sort(dim=1).values[:, : num_clients - num_attackers - 2]
    return [add_in_order(row) for row in nearest]


def exact_mean(update_KP: Tensor, weight_K: Tensor, client_ids: Sequence[int]) -> Tensor:
    """Return Σ_k w_k u_k as an exact sum, float64, shape (P,)."""
    exact = ExactSum(update_KP.shape[1])
    exact.add(update_KP, weight_K, client_ids)
    return exact.to_float64(num_clients=len(client_ids))


def _by_sorted_tiles(update_KP: Tensor, client_ids: Sequence[int], reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Sort every coordinate over the clients, tile by tile, and let `reduce` turn (K, T) float64 into (T,)."""
    check_finite(update_KP, client_ids)
    result_P = torch.empty(update_KP.shape[1], dtype=torch.float64)
    tile = max(1, _TILE_ELEMENTS // len(client_ids))
    for tile_KT, result_T in zip(update_KP.split(tile, dim=1), result_P.split(tile), strict=True):
        result_T.copy_(reduce(tile_KT.double().sort(dim=0).values) + 0.0)  # -0.0, whose place in a tie is open, to 0.0
    return result_P


def _mean_in_order(sorted_KT: Tensor) -> Tensor:
    """Return the mean over rows, added first to last."""
    total_T = torch.zeros_like(sorted_KT[0])
    for row_T in sorted_KT:
        total_T += row_T
    return total_T / len(sorted_KT)


def _check_clients(rule: Rule, num_clients: int, num_attackers: int) -> None:
    """Refuse a round with too few clients for the rule's guarantee."""
    if not 0 <= num_attackers <= most_attackers(rule, num_clients):
        told = f"{rule} cannot resist {num_attackers} hostile clients among {num_clients}"
        raise AggregationError(f"{told}. Raise cohort, or lower aggregate.attacker_share.")
