"""Parts of a list."""

from __future__ import annotations

import pytest

from featup_cli.batch.shards import Shard, parse_shard
from featup_cli.core.devices import parse_devices
from featup_cli.core.errors import UsageError


@pytest.mark.parametrize("count", [1, 3, 16, 20])
def test_shards_have_each_item_once(count: int) -> None:
    items = list(range(17))
    parts = [parse_shard(f"{i + 1}/{count}").of(items) for i in range(count)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", ""])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "2", "WORLD_SIZE": "4", "SLURM_ARRAY_TASK_ID": "1"}, Shard(3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_STEP": "2"}, Shard(4, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Shard(1, 8)),
    ],
    ids=["torchrun", "array", "srun"],
)  # fmt: skip
def test_auto_asks_what_started_the_process(
    environment: dict[str, str], expected: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse_shard("auto") == expected


def test_auto_needs_something_that_started_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="torchrun nor SLURM"):
        parse_shard("auto")


def test_devices_are_workers() -> None:
    assert parse_devices("0,1") == ["cuda:0", "cuda:1"]
    assert parse_devices("cpu:2") == ["cpu", "cpu"]
    assert parse_devices("cuda:1, cpu,mps") == ["cuda:1", "cpu", "mps"]
    for text in ("", "cpu:0", "0;1", "-1"):
        with pytest.raises(UsageError, match="--devices"):
            parse_devices(text)
