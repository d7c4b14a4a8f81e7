"""A curve of any length in bounded memory: neighbouring rounds are averaged once there are too many."""

from __future__ import annotations

from array import array

MAX_POINTS = 400
"""More than a plot of this width can show."""


class ThinnedSeries:
    """Values over rounds. First, last, least, greatest and the mean are exact; in between rounds may share a point."""

    def __init__(self, max_points: int | None = MAX_POINTS) -> None:
        """Begin with no value.

        Args:
            max_points: At least 2; None = every round keeps a point of its own.
        """
        self._max_points = max_points
        self._bucket_rounds = 1
        self._rounds, self._sums, self._counts = array("d"), array("d"), array("q")
        self._newest_bucket = -1
        self.num_values = 0
        self.num_missing = 0
        """Values that were null: not finite when the run wrote them."""
        self._total = 0.0
        self.first: tuple[int, float] | None = None
        self.last: tuple[int, float] | None = None
        self.least: float | None = None
        self.greatest: float | None = None

    @property
    def rounds_per_point(self) -> int:
        """How many rounds a point stands for."""
        return self._bucket_rounds

    @property
    def mean(self) -> float | None:
        """The mean of all values."""
        return self._total / self.num_values if self.num_values else None

    def add(self, round_number: int, value: float | None) -> None:
        """Add a round's value; rounds do not go back. Several values of a round are averaged; None is only counted."""
        if value is None:
            self.num_missing += 1
            return
        bucket = round_number // self._bucket_rounds
        if bucket != self._newest_bucket:
            self._newest_bucket = bucket
            for values in (self._rounds, self._sums, self._counts):
                values.append(0)
        self._rounds[-1] += round_number
        self._sums[-1] += value
        self._counts[-1] += 1
        self._note(round_number, value)
        while self._max_points is not None and len(self._counts) > self._max_points:
            self._halve()

    def points(self) -> list[tuple[float, float]]:
        """Return (round, value), both means where rounds share a point; the first and last round as they were."""
        means = [
            (int(rounds) // count if rounds % count == 0 else rounds / count, total / count)
            for rounds, total, count in zip(self._rounds, self._sums, self._counts, strict=True)
        ]
        if self._bucket_rounds == 1 or self.first is None or self.last is None:
            return means
        between = [point for point in means if self.first[0] < point[0] < self.last[0]]
        return [self.first, *between, self.last]

    def _note(self, round_number: int, value: float) -> None:
        self.num_values += 1
        self._total += value
        self.first = self.first or (round_number, value)
        self.last = (round_number, value)
        self.least = value if self.least is None else min(self.least, value)
        self.greatest = value if self.greatest is None else max(self.greatest, value)

    def _halve(self) -> None:
        """Let points share that fall into one bucket of twice the width."""
        rounds, sums, counts = self._rounds, self._sums, self._counts
        merged: dict[int, list[float]] = {}
        self._bucket_rounds *= 2
        for place in range(len(counts)):
            bucket = int(rounds[place] / counts[place]) // self._bucket_rounds
            into = merged.setdefault(bucket, [0.0, 0.0, 0])
            for number, value in enumerate((rounds[place], sums[place], counts[place])):
                into[number] += value
        self._newest_bucket = max(merged)
        self._rounds = array("d", (each[0] for each in merged.values()))
        self._sums = array("d", (each[1] for each in merged.values()))
        self._counts = array("q", (int(each[2]) for each in merged.values()))
