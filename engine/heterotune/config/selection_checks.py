"""What excludes what when a cohort is not a plain random draw. The table has the form of that in cross_checks.py."""

from __future__ import annotations

from heterotune.config.availability_options import AvailabilityOptions
from heterotune.config.cohort_options import CohortConfig
from heterotune.config.privacy_options import PrivacyOptions


def _accounted_draws(privacy: PrivacyOptions, cohort: CohortConfig, availability: AvailabilityOptions) -> list[str]:
    """The privacy account holds for a draw that is the same for all, secret, and blind to the clients' data."""
    if privacy.mechanism == "none":
        return []
    start = f"privacy.mechanism = {privacy.mechanism} counts on a uniform draw of all clients"
    problems = []
    if cohort.select != "uniform":
        problems.append(f"{start}, and cohort.select = {cohort.select}. Set uniform, or mechanism: none.")
    if availability.is_limited:
        problems.append(f"{start}, and availability.model = {availability.model}. Set always, or mechanism: none.")
    return problems


SELECTION_CHECKS = ((_accounted_draws, ("privacy", "cohort", "availability")),)
