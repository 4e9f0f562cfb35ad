"""What is kept of a policy's reasons: what it foretold, and between what it chose."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from virtgym.envs.files import read_arrays
from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.experiments.evaluate import evaluate
from virtgym.experiments.run.reasons import Reasons
from virtgym.experiments.run.rollout import make_env, rollout

HOUR = {"horizon_s": 3600.0}


@pytest.mark.parametrize(
    ("policy", "steps", "has_band"),
    [
        ("dpm(forecaster=persistence)", 2, True),
        ("dpm_ortools(forecaster=persistence)", 2, True),
        ("drs(forecaster=persistence)", 1, False),
        ("platform(dpm={forecaster:persistence})", 2, True),
        ("onedrs(forecaster=persistence)", 1, False),
    ],
)
def test_forecasts_are_kept_with_what_was_measured(
    policy: str, steps: int, has_band: bool, tmp_path: Path
) -> None:
    evaluate("small", policy, overrides=HOUR, out=tmp_path)
    (file,) = (tmp_path / "heat").glob("*.npz")
    found = read_arrays(file)
    now, ahead, spread = found["forecast"].T
    assert (int(found["forecast_steps"]), str(found["forecaster"])) == (steps, "persistence")
    assert len(now) == 12
    assert np.isnan(now[0])  # nothing was measured yet
    np.testing.assert_allclose(ahead[1:], now[1:], rtol=1e-6)
    assert bool((spread[1:] > 0).all()) == has_band
    assert "choices" not in found


def test_a_policy_without_forecaster_tells_nothing(tmp_path: Path) -> None:
    evaluate("small", "drs(forecaster=null)", overrides=HOUR, out=tmp_path)
    (file,) = (tmp_path / "heat").glob("*.npz")
    assert not {"forecast", "choices"} & set(read_arrays(file))


class Chooser:
    """Takes the last candidate that is offered, then closes the interval."""

    env_options: ClassVar[dict[str, Any]] = {"actions": "candidates", "max_decisions_per_interval": 2}

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        self._turn = 0

    def predict(
        self, observation: Any, state: Any, start: Any, deterministic: bool, masks: Any
    ) -> tuple[Any, Any]:
        self._turn += 1
        self._mask = np.asarray(masks, dtype=bool)
        return (int(np.flatnonzero(masks)[-1]) if self._turn % 2 else 0), state

    def explain(self) -> tuple[str, Any]:
        values = np.where(self._mask, -np.arange(len(self._mask), dtype=np.float32), -np.inf)
        return "value", values[None]


def test_choices_are_kept_with_what_they_were_made_by() -> None:
    policy: Any = Chooser()
    env = make_env(build_scenario("small", overrides=HOUR), policy)
    run = rollout(env, policy)
    told = run.reasons
    rows, values, slots = told["choices"], told["choice_values"], told["choice_slots"].tolist()
    assert slots[0] == "nothing"
    assert {"relieve", "empty", "on"} <= set(slots)
    assert rows[:, 0].tolist() == sorted(rows[:, 0].tolist())
    assert set(rows[:, 0].tolist()) == set(range(run.record.n))
    closing = rows[:, 1] == 0
    assert closing.sum() == run.record.n == 12
    assert bool((rows[:, 3] == 0).all())  # by its values it should have closed each time
    np.testing.assert_array_equal(values[:, 0], -rows[:, 1])
    assert bool((values[~closing, 1] == 0).all())
    assert told["choice_offered"][0] == len(rows)
    assert told["choice_mean"][0] == 0.0
    assert str(told["choice_measure"]) == "value"
    assert rollout(env, policy, heat=False).reasons == {}


def test_whoever_listened_before_goes_on_listening() -> None:
    class Searching:
        listener: Any = None

    heard: list[int] = []
    policy = Searching()
    policy.listener = before = lambda form, values, chosen: heard.append(chosen)
    candidates = SimpleNamespace(mask=np.ones(1, dtype=bool))
    form: Any = SimpleNamespace(names=["nothing"], candidates=candidates)
    reasons = Reasons(policy, 1)
    policy.listener(form, np.zeros(1), 0)
    reasons.close()
    assert heard == [0]
    assert len(reasons.arrays["choices"]) == 1
    assert policy.listener is before
