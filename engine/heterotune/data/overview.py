"""Who holds what, as plain values: what `heterotune data` prints, RUN/data.json holds and reports draw."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from heterotune.data.clients_data import FederatedData
from heterotune.data.rows import Rows

MOST_LISTED = 2_000
"""Of a larger fleet about `NUM_SAMPLED` clients are listed."""
NUM_SAMPLED = 1_000
_ROW_SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BLOCK_ROWS = 4096


def digest_of(data: FederatedData) -> str:
    """Return the SHA-256 of all rows: of every client's training rows in client order, then of the held-out ones.

    It depends on ids, targets, lengths and labels, and not on how they are kept.
    """
    if data.known_digest:
        return data.known_digest
    digest = hashlib.sha256()
    for mark, rows in (*data.train.digest_parts(), (b"%d rows\n" % len(data.heldout), data.heldout)):
        digest.update(mark)
        for start in range(0, len(rows), _BLOCK_ROWS):
            _add(digest, rows, slice(start, start + _BLOCK_ROWS))
    digest.update(np.ascontiguousarray(data.heldout_clients, dtype="<i8").data)
    return digest.hexdigest()


def _add(digest: Any, rows: Rows, part: slice) -> None:
    for array in (rows.input_ids, rows.targets, rows.lengths, rows.labels):
        digest.update(np.ascontiguousarray(array[part], dtype="<i4").data)


def client_entries(
    data: FederatedData, type_of_client: Sequence[str], client_ids: Iterable[int]
) -> Iterator[dict[str, Any]]:
    """Yield what some clients hold."""
    heldout = Counter(data.heldout_clients.tolist())
    for client_id in client_ids:
        held = data.holding_of(client_id)
        yield {
            "client": client_id,
            "model_type": type_of_client[client_id],
            "train_rows": int(data.train.num_rows[client_id]),
            "heldout_rows": heldout[client_id],
            "train_tokens": held.num_tokens,
            "documents": held.num_documents,
            "cut_rows": held.num_cut,
            "length_quartiles": list(held.length_quartiles),
            "owners": held.owners,
            "labels": held.labels,
        }


def overview(data: FederatedData, type_of_client: Sequence[str]) -> dict[str, Any]:
    """Return who holds what, with a digest of all rows and measures of skew.

    Of more than `MOST_LISTED` clients some are listed, at equal distances, and the skew is theirs; the numbers of rows
    are always of all.

    Args:
        data: The fleet's data.
        type_of_client: Name of each client's model type.
    """
    num_rows = data.train.num_rows
    clients = list(client_entries(data, type_of_client, listed(len(num_rows))))
    quantiles = np.quantile(num_rows, _ROW_SHARES, method="lower").tolist()
    return {
        "num_clients": len(num_rows),
        "num_train_rows": int(num_rows.sum()),
        "rows_quantiles": dict(zip(map(str, _ROW_SHARES), quantiles, strict=True)),
        "digest": digest_of(data),
        "label_names": list(data.label_names),
        "fleet_heldout_rows": int((data.heldout_clients < 0).sum()),
        "skew": skew(clients),
        "clients": clients,
    }


def listed(num_clients: int) -> range:
    """Return the clients of a fleet that are listed one by one."""
    return range(num_clients) if num_clients <= MOST_LISTED else range(0, num_clients, -(-num_clients // NUM_SAMPLED))


def skew(clients: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Measure how different clients are.

    Returns:
        "label_entropy_nats": mean entropy of the clients' label shares; "fleet_label_entropy_nats": that of all rows
        together; "jensen_shannon_nats": mean Jensen-Shannon divergence of a client's label shares from the fleet's, 0 =
        all alike, at most ln 2; "labels_per_client": mean number of labels; "largest_rows_share": rows of the largest
        client over all; "rows_coefficient_of_variation": standard deviation of the clients' rows over their mean.
        Empty without rows.
    """
    holders = [client for client in clients if client["train_rows"]]
    if not holders:
        return {}
    names = sorted(set().union(*(client["labels"] for client in holders)))
    rows = np.array([client["train_rows"] for client in holders], dtype=np.float64)
    sizes = {
        "largest_rows_share": float(rows.max() / rows.sum()),
        "rows_coefficient_of_variation": float(rows.std() / rows.mean()),
    }
    if not names:
        return sizes
    counts = np.array([[client["labels"].get(name, 0) for name in names] for client in holders], dtype=np.float64)
    counts = counts[counts.sum(axis=1) > 0]
    shares = counts / counts.sum(axis=1, keepdims=True)
    fleet = counts.sum(axis=0) / counts.sum()
    middle = (shares + fleet) / 2
    divergence = entropy(middle) - (entropy(shares) + entropy(fleet[None])) / 2
    return {
        "label_entropy_nats": float(entropy(shares).mean()),
        "fleet_label_entropy_nats": float(entropy(fleet[None])[0]),
        "jensen_shannon_nats": float(divergence.mean()),
        "labels_per_client": float((shares > 0).sum(axis=1).mean()),
        **sizes,
    }


def entropy(shares: np.ndarray) -> np.ndarray:
    """Return the entropy in nats of each row of shares."""
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logarithms).sum(axis=1)


def fleet_counts(clients: Sequence[Mapping[str, Any]], kind: str) -> Counter[str]:
    """Return the rows of each owner or label ("owners", "labels") over all clients, most first."""
    counts: Counter[str] = Counter()
    for client in clients:
        counts.update(client[kind])
    return Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))
