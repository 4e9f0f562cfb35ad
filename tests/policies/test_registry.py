"""Policies by name and by configuration: what is allowed, and one line for what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from virtgym.envs.errors import ConfigError
from virtgym.policies import POLICIES, Policy, make_policy, registry
from virtgym.policies.literature.parts import DETECTORS
from virtgym.policies.literature.policy import ConsolidationPolicy

KEEP_ARRIVAL = {"ha", "nfv_upgrade", "rollout_search"}
"""Policies that leave the scenario's rule for arrivals as it is."""


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_name_makes_a_policy(name: str) -> None:
    policy = make_policy(name)
    assert isinstance(policy, Policy)
    if registry.serves(policy, "cluster") and registry.policy_kind(policy) != "agent":
        own = None if name in KEEP_ARRIVAL else "first_fit"
        fits = "-" in name or name.startswith("dpm") or name == "platform"
        assert policy.arrival == ("pabfd" if fits else own)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_configuration_of_each_policy_is_its_defaults(name: str) -> None:
    config: Any = OmegaConf.to_container(OmegaConf.create(registry.policy_config(name)))
    assert config == registry.policy_config(name)
    assert repr(instantiate(config)) == repr(make_policy(name)) == repr(make_policy(config))


def test_defaults_are_the_literature_s() -> None:
    detectors = {entry.name: entry.factory for entry in DETECTORS.known()}
    safety = {name: d.safety for name, d in detectors.items()}
    assert safety == {"thr": 0.8, "mad": 2.5, "iqr": 1.5, "ols": 1.2, "loess": 1.2, "loess_robust": 1.2}
    assert {n: d.min_samples(d.window) for n, d in detectors.items() if n != "thr"} == {
        **dict.fromkeys(("mad", "iqr"), 12),
        **dict.fromkeys(("ols", "loess", "loess_robust"), 10),
    }


def test_parameters_win_over_names_and_mappings() -> None:
    policy: Any = make_policy({"name": "ols-mmt", "detector": "mad", "safety": 2.0}, safety=3)
    assert (policy.detector, policy.selector, policy.safety) == ("mad", "mmt", 3)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("ols-mnt", {}, r"^policy=ols-mnt: did you mean ols-mmt or .*allowed: static, npa"),
        ("", {}, r"^policy=: allowed: static"),
        ("ols-mmt", {"safty": 1}, r"^policy.safty: ols-mmt has no .*did you mean safety\? allowed: detector"),
        ("static", {"safety": 1}, r"^policy.safety: static has no parameters$"),
        ("ols-mmt", {"detector": "lr"}, r"^policy.detector=lr: .*allowed: thr, mad"),
        ("ols-mmt", {"selector": "mmd"}, r"^policy.selector=mmd: did you mean mmt"),
        ("ols-mmt", {"placer": "bfd"}, r"^policy.placer=bfd: did you mean pabfd"),
        ("ols-mmt", {"mmt_ties": "none"}, r"^policy.mmt_ties=none: .*allowed: smaller, larger, index"),
        ("ols-mmt", {"safety": "much"}, r"^policy.safety=much: must be a number or null$"),
        ("ols-mmt", {"safety": float("nan")}, r"^policy.safety=nan: must be a number"),
        ("ols-mmt", {"safety": 0}, r"^policy.safety=0: must be positive"),
        ("ols-mmt", {"window": 2}, r"^policy.window=2: must be at least 3"),
        ("ols-mmt", {"window": 1.5}, r"^policy.window=1.5: must be an integer or null"),
        ("ols-mmt", {"underload": 1}, r"^policy.underload=1: must be true or false"),
        ("ols-mmt", {"underload_threshold": None}, r"^policy.underload_threshold=None: must be a number$"),
        ("ols-mmt", {"max_migrations": -1}, r"^policy.max_migrations=-1: must be 0 or more"),
        ("random", {"moves": -1}, r"^policy.moves=-1: must be 0 or more"),
        ("no.such.module.Class", {}, r"^policy=no.such.module.Class: no module no"),
        ("virtgym.policies.simple.Statik", {}, r"has no attribute .Statik"),
        ("virtgym.policies.simple.np", {}, r"must be a class with the methods reset"),
        ("collections.OrderedDict", {}, r"must be a class with the methods reset"),
        ("runs/7/agent", {}, r"no such folder"),
    ],
)
def test_what_is_wrong_is_one_line(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_policy(name, **params)
    assert "\n" not in str(caught.value)


def test_a_configuration_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="has no name"):
        make_policy({"safety": 1.0})


class OwnPolicy:
    """A user's class."""

    def __init__(self, level: float = 1.0) -> None:
        self.level = level

    def reset(self, view: Any, rng: np.random.Generator) -> None:
        """Nothing to do."""

    def predict(self, observation: Any, state: Any = None, *_: Any, **__: Any) -> tuple[int, Any]:
        """Nothing to see."""
        return 0, state


def test_a_dotted_path_loads_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("my_research")
    module.OwnPolicy = OwnPolicy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_research", module)
    policy = make_policy("my_research.OwnPolicy", level=2.0)
    assert isinstance(policy, OwnPolicy)
    assert policy.level == 2.0
    assert isinstance(make_policy("virtgym.policies.literature.ConsolidationPolicy"), ConsolidationPolicy)
    with pytest.raises(ConfigError, match="unexpected keyword argument 'height'"):
        make_policy("my_research.OwnPolicy", height=2.0)


def test_a_folder_is_an_agent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.json: no such file"):
        make_policy(tmp_path)
    with pytest.raises(ConfigError, match="has no parameters"):
        make_policy(tmp_path, level=1.0)


def test_baselines_import_nothing_heavy() -> None:
    code = (
        "import sys, virtgym.policies; print([m for m in ('torch', 'hydra', 'pandas') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
