"""What every agent learns, on a toy whose best return is known."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from virtgym.experiments.cli.commands import main

pytest.importorskip("torch")
pytest.importorskip("sb3_contrib")


def toy(tmp_path: Path) -> tuple[str, ...]:
    """One host of two nodes with 4 cores; nothing leaves; requests of 1, 1, 1, 1, 4 and 1 cores.

    The best that can be is 5 requests: the four small ones on one node, the large one on the other. A player
    that places at random puts the small ones together once in 8.
    """
    cores = [1, 1, 1, 1, 4, 1]
    text = "vmid,cpu,mem,at,lt\n" + "".join(f"{i},{c},1,{60 * i},100000\n" for i, c in enumerate(cores))
    (tmp_path / "toy.csv").write_text(text)
    (tmp_path / "windows.csv").write_text("0\n")
    return (
        "scenario=placement_fading",
        f"scenario.trace.path={tmp_path / 'toy.csv'}",
        f"scenario.windows={tmp_path / 'windows.csv'}",
        "scenario.train_rows=[0,1]",
        "scenario.placement.n_hosts=1",
        "scenario.placement.node_cores=4",
        "scenario.placement.max_requests=0",
        "num_envs=32",
        "eval_every=2000",
        "tensorboard=false",
    )


LEARNS: dict[str, tuple[str, ...]] = {
    "ppo": ("agent.n_steps=8", "agent.batch_size=64", "agent.learning_rate=3e-3"),
    "maskable_ppo": ("agent.n_steps=8", "agent.batch_size=64", "agent.learning_rate=3e-3"),
    "a2c": ("agent.learning_rate=3e-3", "agent.n_steps=8"),
    "dqn": (
        *("agent.learning_starts=500", "agent.buffer_size=5000", "agent.batch_size=128"),
        *("agent.learning_rate=3e-3", "agent.target_update_interval=500", "agent.exploration_fraction=0.5"),
    ),
}


@pytest.mark.parametrize("network", ["mlp", "equivariant"])
@pytest.mark.parametrize("agent", list(LEARNS))
def test_the_best_return_is_learned(agent: str, network: str, tmp_path: Path) -> None:
    settings = (*toy(tmp_path), f"agent={agent}", f"agent.network={network}", *LEARNS[agent])
    out = tmp_path / "run"
    assert main(["train", *settings, "total_timesteps=16000", f"out={out}"]) == 0
    assert json.loads((out / "train.json").read_text())["objective"] == -5.0
    # and not by luck of the start: it is what the last policy does, and what explores gets most of the time
    progress = pd.read_csv(out / "progress.csv")
    assert progress["objective"].iloc[-1] == -5.0
    assert progress["episode_reward"].iloc[-1] > 4.7  # at random: 4.125
