import pytest

from heterotune.collective.opening import open_channel
from heterotune.errors import LaunchError


def test_an_environment_without_a_job_is_refused(monkeypatch):
    for variable in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="torch.distributed needs RANK, MASTER_ADDR, MASTER_PORT .* torchrun"):
        open_channel("torch")
