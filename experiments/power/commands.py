"""``virtgym calibrate`` and ``virtgym validate``: from what is typed to files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.checks import hint, need_choice
from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.envs.sim.config import HostType
from virtgym.envs.traces.formats.meter import GAPS, PowerMeter, read_meter

from ..cli.progress import Progress
from ..config.compose import Run, compose_run
from ..config.overrides import parse_value, split_list, split_override, unquote
from .forms import FORMS, Hosts
from .loads import GRID, Loads, count_steps, play_loads
from .page import deliver
from .walk import Metered, calibrate, walk_forward

OWN: dict[str, Any] = {
    "power": None, "form": "best", "forms": FORMS, "blocks": 5, "lag_s": None, "start": None,
    "until_s": math.inf, "gaps": "error", "scale": False, "out": None,
}  # fmt: skip
"""Keys beside those of the scenario, with their defaults."""
_HYDRA = ("scenario", "seed", "experiment")
_LEAST_W, _MOST_W = 0.5, 50_000.0
"""What a host may draw on average, W: what lies outside is another unit."""


@dataclass(frozen=True)
class Request:
    """A checked command line.

    Attributes:
        own: Values of ``OWN``.
        overrides: What Hydra composes.
    """

    own: Mapping[str, Any]
    overrides: tuple[str, ...]


def read_request(command: str, arguments: Sequence[str]) -> Request:
    """Read the arguments of a command.

    Raises:
        ConfigError: One line that names the key and what is allowed.
    """
    own, overrides = dict(OWN), []
    if command == "validate":
        del own["form"]
    for word in arguments:
        key, text = split_override(word)
        if key in own:
            own[key] = _typed(key, text)
        elif key.split(".")[0] in _HYDRA:
            overrides.append(word)
        else:
            known = (*own, *_HYDRA)
            raise ConfigError(
                f"{key}: {command} has no such key{hint(key, known)}; allowed are: {', '.join(known)}"
            )
    if own["power"] is None:
        raise ConfigError(
            f"power=: name a file of metered watts, like virtgym {command} scenario=S power=watts.csv"
        )
    if own.get("form", "best") not in ("best", *own["forms"]):
        raise ConfigError(f"form={own['form']}: must be best or one of forms=[{','.join(own['forms'])}]")
    return Request(own, tuple(overrides))


def _typed(key: str, text: str) -> Any:
    if key in ("power", "out", "start"):
        return unquote(text)
    if key == "forms":
        forms = tuple(split_list(text))
        for form in forms:
            need_choice("", "forms", form, FORMS)
        if not forms or len(set(forms)) < len(forms):
            raise ConfigError(f"forms={text}: name each of {', '.join(FORMS)} once, at least one of them")
        return forms
    value = parse_value(key, text)
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key == "blocks" and not (plain and value == int(value) and 2 <= value <= 1000):
        raise ConfigError(f"blocks={text}: must be a whole number from 2 to 1000")
    if key == "lag_s" and not plain:
        raise ConfigError(f"lag_s={text}: must be a number of seconds; without it the past says it")
    if key == "until_s" and not (plain and value > 0):
        raise ConfigError(f"until_s={text}: must be a positive number of seconds")
    if key == "scale" and not isinstance(value, bool):
        raise ConfigError(f"scale={text}: must be true or false")
    if key == "gaps" and value not in GAPS:
        raise ConfigError(f"gaps={text}: must be one of {', '.join(GAPS)}")
    return int(value) if key == "blocks" else value


def run(command: str, arguments: Sequence[str]) -> None:
    """Run ``virtgym calibrate`` or ``virtgym validate``.

    Raises:
        VirtgymError: For a user's error.
    """
    from ..operations.page import open_folder

    request = read_request(command, arguments)
    own = request.own
    composed = compose_run("evaluate", request.overrides)
    kind = composed.scenario.get("kind", "cluster")
    if kind != "cluster":
        raise ConfigError(f"scenario={composed.scenario['name']}: is of kind {kind}; clusters draw power")
    if command == "calibrate" and composed.scenario["inventory"]["path"] is not None:
        raise ConfigError(
            "scenario=inventory: an export says what its hosts draw; give watts in scenario.inventory.overlay"
        )
    seed = composed.seeds[0]
    meter = read_meter(own["power"], gaps=own["gaps"])
    scenario = build_scenario(composed.scenario, seed=seed)
    folder = open_folder(command, own["out"])
    forms = own["forms"]
    with Progress(2) as progress:
        data, loads, late = metered(
            scenario, meter, own["start"], own["until_s"], seed, lambda share: progress.reach("engine", share)
        )
        progress.tick("engine", f"{len(data.watts):,} steps played")
        lag = None if own["lag_s"] is None else round(own["lag_s"] / data.step_s)
        judged = walk_forward(data, forms, blocks=own["blocks"], lag=lag, scale=own["scale"], seed=seed)
        progress.tick("forms", f"{len(forms)} fitted {own['blocks'] - 1} times")
    fitted = None
    if command == "calibrate":
        form = judged.best if own["form"] == "best" else own["form"]
        fitted = calibrate(data, form, lag=lag, scale=own["scale"], seed=seed)
        weights = type_weights(scenario)
        kinds = [
            fitted.fits[late.group_of[t]].host_type(host, weights[t])
            for t, host in enumerate(scenario.cluster.host_types)
        ]
        write_scenario(folder / "calibrated.yaml", composed, kinds, form, meter, data)
    deliver(folder, scenario, meter, data, loads, judged, fitted, late.clock_s)


@dataclass(frozen=True)
class Places:
    """How meter and scenario lie to each other.

    Attributes:
        group_of: Metered group of each host type.
        clock_s: Time of the day at which the trace begins, s; None = not known.
    """

    group_of: tuple[int, ...]
    clock_s: float | None


def type_weights(scenario: Scenario) -> F8:
    """What a host of each type draws at most now, as a multiple of the mean of the types, (T,)."""
    peaks = np.array([max(kind.table_w) + kind.curve.busy_w for kind in scenario.cluster.host_types])
    if len(peaks) == 1 or not peaks.min() > 0:
        return np.ones(len(peaks))
    return np.asarray(peaks / peaks.mean())


def metered(
    scenario: Scenario, meter: PowerMeter, start: str | None, until_s: float, seed: int, tell: Any
) -> tuple[Metered, Loads, Places]:
    """Play a scenario and put what its hosts did beside their meter.

    Args:
        scenario: The scenario.
        meter: Its meter.
        start: Moment at which the trace begins, for meters with dates.
        until_s: Readings after that are not used, s since the trace began.
        seed: Of what happens by chance.
        tell: Told how much of the engine's work is done, 0 to 1.

    Raises:
        ConfigError: If they do not belong together.
    """
    first_s, clock_s = _since_start(meter, start)
    n = max(1, math.ceil(scenario.workload.sample_s / meter.period_s - 1e-6))
    step_s = n * meter.period_s
    last_s = min(until_s, first_s + (len(meter.watts) - 1) * meter.period_s)
    steps = count_steps(scenario, step_s, last_s + step_s / 2)
    groups, group_of = _groups_of(scenario, meter)
    watts = _on_steps(meter, first_s, step_s, steps, n, until_s)
    known = np.isfinite(watts).all(axis=1)
    within = int(known.sum()) * n
    if steps < 1 or within < (min(0.5 * len(meter.watts), 100) if until_s == math.inf else 1):
        ends = first_s + (len(meter.watts) - 1) * meter.period_s
        cut = "" if until_s == math.inf else f" before until_s={until_s:g}"
        raise ConfigError(
            f"power={meter.source}: {within} of {len(meter.watts)} readings, from {first_s:g} to {ends:g} s, "
            f"lie in the trace{cut}, which lasts {scenario.horizon_s:g} s; are the times in s since it "
            "began, or dates with start=?"
        )
    total = watts[known].sum(axis=1)
    if total.min() <= 0:
        raise ConfigError(
            f"power={meter.source}: a reading of all together is 0 W; relative errors need more"
        )
    each = float(np.median(total)) / scenario.cluster.n_hosts
    if not _LEAST_W <= each <= _MOST_W:
        raise ConfigError(
            f"power={meter.source}: {each:.3g} W a host ({scenario.cluster.n_hosts} hosts) is not what hosts "
            "draw; are the readings in W, not kW or J?"
        )
    loads = play_loads(scenario, step_s, steps, seed, _counted(steps, tell))
    weights = type_weights(scenario)
    parts = []
    for own in groups:
        at = np.einsum("stg,t->sg", loads.hosts[:, own], weights[own])
        parts.append(Hosts(at, loads.busy[:, own] @ weights[own]))
    given = np.stack([_given(scenario, loads, own) for own in groups], axis=1)
    return Metered(step_s, tuple(parts), watts, given), loads, Places(group_of, clock_s)


def _counted(steps: int, tell: Any) -> Any:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 256 == 0:
            tell(done / steps)

    return tick


def _since_start(meter: PowerMeter, start: str | None) -> tuple[float, float | None]:
    """Time of the first reading, s since the trace began, and the time of the day at which it did."""
    if start is None:
        if meter.dated:
            raise ConfigError(
                f"power={meter.source}: its times are dates; say with start=2022-10-06T22:00 when the trace "
                "began"
            )
        return meter.first_s, None
    try:
        begin_s = float(np.datetime64(start, "ms").astype(np.int64)) / 1000.0
    except ValueError:
        raise ConfigError(f"start={start}: must be a date and time like 2022-10-06T22:00") from None
    return meter.first_s - (begin_s if meter.dated else 0.0), begin_s % 86400.0


def _groups_of(scenario: Scenario, meter: PowerMeter) -> tuple[list[list[int]], tuple[int, ...]]:
    """Host types of each metered group, and the group of each type."""
    kinds = [kind.name for kind in scenario.cluster.host_types]
    if len(meter.owners) == 1 and meter.owners[0] not in kinds:
        return [list(range(len(kinds)))], (0,) * len(kinds)
    missing = [name for name in meter.owners if name not in kinds]
    if missing or len(meter.owners) != len(kinds) or len(set(kinds)) < len(kinds):
        what = f"{missing[0]} is none of its" if missing else f"names {', '.join(meter.owners)}, not all"
        raise ConfigError(
            f"power={meter.source}: {what} host types ({', '.join(kinds)}); give a reading of each type, or "
            "one of all together"
        )
    of = tuple(meter.owners.index(name) for name in kinds)
    return [[t for t, g in enumerate(of) if g == group] for group in range(len(meter.owners))], of


def _on_steps(meter: PowerMeter, first_s: float, step_s: float, steps: int, n: int, until_s: float) -> F8:
    """Mean watts of each step, NaN where a reading is missing, (S, owners)."""
    end = first_s + meter.period_s * np.arange(len(meter.watts))
    step = np.floor((end - 0.5 * meter.period_s) / step_s + 1e-9).astype(np.int64)
    keep = (step >= 0) & (step < steps) & (end <= until_s * (1 + 1e-12))
    found = np.full((max(steps, 1), meter.watts.shape[1]), np.nan)
    if not keep.any():
        return found
    for owner in range(meter.watts.shape[1]):
        sums = np.bincount(step[keep], meter.watts[keep, owner], minlength=len(found))
        counts = np.bincount(step[keep], minlength=len(found))
        whole = counts == n
        found[whole, owner] = sums[whole] / n
    return found


def _given(scenario: Scenario, loads: Loads, own: list[int]) -> F8:
    """What the scenario's own curves draw for a group of types, W, (S,)."""
    from virtgym.envs.sim.models.power import curve_power

    sim = scenario.simulator()
    total = np.zeros(len(loads.hosts))
    for kind in own:
        busy = scenario.cluster.host_types[kind].curve.busy_w
        curve = np.array([curve_power(sim.kernel_params, kind, float(u)) for u in GRID])
        curve[1:] -= busy
        total += loads.hosts[:, kind] @ curve + busy * loads.busy[:, kind]
    return total


def write_scenario(
    path: Path, composed: Run, kinds: Sequence[HostType], form: str, meter: PowerMeter, data: Metered
) -> None:
    """Write the scenario with fitted host types, as ``scenario=FILE`` takes it."""
    from ..config.yamlio import dump_yaml
    from ..run.folder import write_text

    known = np.flatnonzero(np.isfinite(data.watts.sum(axis=1)))
    plain = dict(composed.scenario)
    groups = []
    for group, kind in zip(plain["hosts"], kinds):
        points = kind.power_w if isinstance(kind.power_w, str) else list(kind.power_w)
        groups.append({**group, "power_w": points, "curve": asdict(kind.curve)})
    plain["hosts"] = groups
    plain["name"] = f"{plain['name']}_calibrated"
    plain["description"] = (
        f"{composed.scenario['name']}, power of form {form} fitted to {meter.name} until "
        f"{(known[-1] + 1) * data.step_s:g} s"
    )
    trace = dict(plain["trace"])
    if trace["path"] is not None and Path(trace["path"]).exists():
        trace["path"] = str(Path(trace["path"]).resolve())
    plain["trace"] = trace
    text = dump_yaml({"_target_": "virtgym.envs.scenarios.build_scenario", **plain})
    write_text(path, f"# Written by virtgym calibrate.\n{text}")
