"""Pages of the reference in Markdown, one a function; the site and the tests call them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_type_hints

from .keys import Key, keys_of, meanings, shown

HEAD = "<!-- made from the code by virtgym.experiments.reference; edit the docstrings -->\n\n"


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|").replace("\n", " ")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)])


def _keys(keys: Iterable[Key]) -> str:
    return _table(
        ("key", "default", "type", "meaning"),
        ((f"`{k.name}`", f"`{k.default}`" if k.default else "", k.kind, k.meaning) for k in keys),
    )


def scenarios() -> str:
    """The scenarios that ship, and every key that a scenario of each kind may have."""
    from virtgym.envs.placement.games import PlacementConfig
    from virtgym.envs.scenarios.placement import PlacementScenarioConfig
    from virtgym.envs.scenarios.schema import ScenarioConfig

    from ..config.listing import list_names, read_group_file

    found = {name: read_group_file("scenario", name) for name in list_names("scenario")}
    kinds = {name: str(found[name].get("kind", "cluster")) for name in found}
    rows = ((f"`{name}`", kinds[name], str(found[name].get("description", ""))) for name in found)
    groups: dict[str, list[Key]] = {}
    for key in keys_of(ScenarioConfig, "scenario."):
        head, *rest = key.name.split(".")[1:]
        groups.setdefault(head.rstrip("[]") if rest else "", []).append(key)
    top = groups.pop("")
    texts = meanings(ScenarioConfig)
    parts = [
        "# Scenarios",
        "A scenario is a YAML with the keys below, `scenario=NAME`, or `scenario=FILE.yaml` of your own, "
        "which may begin with `defaults: [small]`; on the command line every key is `scenario.KEY=VALUE`. "
        "A key that does not exist, or has no effect, is an error.",
        "## Scenarios that ship",
        _table(("name", "kind", "question"), rows),
        "## Keys of a cluster",
        _keys(top),
    ]
    for head, keys in groups.items():
        parts += [f"### {head}", _cell(texts.get(head, "")), _keys(keys)]
    parts += [
        "## Keys of a placement scenario",
        _keys(keys_of(PlacementScenarioConfig, "scenario.")),
        _keys(keys_of(PlacementConfig, "scenario.placement.")),
    ]
    return "\n\n".join(parts) + "\n"


def _registered(registry: Any, prefix: str) -> Iterator[str]:
    """A section a class: the names that stand for it, what they are, and its parameters."""
    kinds: dict[Any, list[Any]] = {}
    for name in registry:
        entry = registry.find(name)
        kinds.setdefault(getattr(entry.factory, "schema", entry.factory), []).append(entry)
    for kind, entries in kinds.items():
        names = [f"`{entry.name}`" for entry in entries]
        title = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        yield f"## {title}"
        yield _table(
            ("name", "what", "implies"), ((f"`{e.name}`", e.description, _implied(e)) for e in entries)
        )
        if keys := list(keys_of(kind, f"{prefix}.")):
            yield _keys(keys)


def _implied(entry: Any) -> str:
    return ", ".join(f"`{key}={shown(value)}`" for key, value in entry.implied.items())


def policies() -> str:
    """Every policy with its parameters."""
    from virtgym.policies.registry import POLICIES

    head = "`policy=NAME policy.KEY=VALUE`, in a list `NAME(KEY=VALUE,…)`; an agent by its folder."
    return "\n\n".join(["# Policies", head, *_registered(POLICIES, "policy")]) + "\n"


def agents() -> str:
    """Every agent that can be trained, with its settings."""
    from ..training.agents import AGENTS
    from ..training.schema import TrainConfig

    head = "`virtgym train agent=NAME scenario=S agent.KEY=VALUE`; clusters have some other defaults."
    keys = [key for key in keys_of(TrainConfig) if not key.name.startswith(("scenario", "agent"))]
    parts = ["# Agents", head, "## Keys of a training", _keys(keys), *_registered(AGENTS, "agent")]
    return "\n\n".join(parts) + "\n"


def metrics() -> str:
    """Every metric of a result row, and every term of the reward."""
    from virtgym.envs.cluster.rewards import TERMS
    from virtgym.envs.placement.rewards import ENTRIES
    from virtgym.envs.sim.metrics import METRICS

    parts = [
        "# Metrics and rewards",
        "Columns of result rows (`results.parquet`, `results.csv`); NaN where what a metric needs is off.",
        _table(("column", "meaning"), ((f"`{name}`", text) for name, text in METRICS.items())),
        "## Terms of a cluster's reward",
        "`env.reward.TERM=WEIGHT`; unless set the reward is minus the cost of the interval.",
        _table(("term", "meaning"), ((f"`{name}`", text) for name, text in TERMS.items())),
        "## Rewards of placement",
        _table(("reward", "what a placement pays"), ((f"`{entry.name}`", entry.doc) for entry in ENTRIES)),
    ]
    return "\n\n".join(parts) + "\n"


def columns() -> str:
    """Every column of an observation, with its range."""
    from virtgym.envs.cluster.tables import COLUMNS
    from virtgym.envs.placement import buffers

    tables: dict[str, list[Any]] = {}
    for name in COLUMNS:
        tables.setdefault(name.split("/")[0], []).append(COLUMNS.find(name).factory)
    game = {
        "nodes": buffers.NODE_COLUMNS,
        "request": buffers.REQUEST_COLUMNS,
        "globals": buffers.GLOBAL_COLUMNS,
        "window": buffers.WINDOW_COLUMNS,
    }
    parts = ["# Observation columns", "All are float32; a policy sees no more than this and its view."]
    for problem, found in (("Cluster-v0", tables), ("Placement-v0", game)):
        for table, of_table in found.items():
            rows = ((f"`{c.name}`", f"{c.low:g}…{c.high:g}", c.doc) for c in of_table)
            parts += [f"## `virtgym/{problem}`: {table}", _table(("column", "range", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


TELEMETRY = "../simulator.md#12-telemetry-modelstelemetrypy-telemetryshownpy"

WORKING = (
    *("heap_", "host_head", "host_tail", "host_in_", "vm_next", "vm_prev", "vm_in_", "host_mark"),
    *("clock", "counters", "totals", "fail_"),
)
"""Beginnings of names of the engine's own lists, and of what views have empty."""


def view() -> str:
    """Everything that a policy may read, with shape, unit, and whether it is of now or was measured."""
    from virtgym.envs.sim.simulator import ClusterView
    from virtgym.envs.sim.state.cluster_state import ClusterState
    from virtgym.envs.sim.state.fields import Of, Past, Rows, Signal
    from virtgym.envs.sim.state.parameters import ClusterParams

    def rows(kind: type[Any], prefix: str) -> Iterator[tuple[str, ...]]:
        for name, hint in get_type_hints(kind, include_extras=True).items():
            of = next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Of)), None)
            if of is None or not of.meaning or isinstance(of, Past | Rows) or name.startswith(WORKING):
                continue
            cells = (f"`{prefix}.{name}`", f"({of.shape})" if of.shape else "", of.part or "always")
            seen = ("measured" if isinstance(of, Signal) else "now",) if kind is ClusterState else ()
            yield (*cells, *seen, of.meaning)

    plain = [name for name, hint in get_type_hints(ClusterParams).items() if hint in (int, float)]
    head = ("field", "shape", "needs")
    own = ("profiles", "vm_profile", "horizon_s", "config")
    told = {name: getattr(ClusterView, name).__doc__ for name in ("time_s", "n_hosts", "n_vms", "measured")}
    told |= {name: meanings(ClusterView)[name] for name in own}
    parts = [
        "# What a policy reads",
        "`plan(view)` gets a view of a cluster and returns `Decisions` "
        "([your policy](../tutorials/policy.ipynb)). H hosts, V VMs, N NUMA nodes, T host types, S samples; "
        "arrays are read-only. *Measured* is what a controller could have known: the interval before, by the "
        f"keys `scenario.telemetry.*` ([telemetry]({TELEMETRY})). Nothing of what is to come can be read: "
        "demand, arrivals, departures and failures.",
        _table(("field", "meaning"), ((f"`view.{name}`", text) for name, text in told.items())),
        "`view.fork(demand)` is a simulator of what is shown, to try orders in.",
        "## State",
        _table((*head, "is of", "meaning"), rows(ClusterState, "view.state")),
        "## Parameters",
        "`util` has one row, what was measured; arrivals and departures that are to come are inf.",
        _table((*head, "meaning"), rows(ClusterParams, "view.params")),
        f"Numbers and switches (0 or 1) beside them: {', '.join(f'`view.params.{name}`' for name in plain)}.",
    ]
    return "\n\n".join(parts) + "\n"


def plugins() -> str:
    """Every kind of thing that a package of one's own may add, with a skeleton of it."""
    from ..cli.new import KINDS, read_skeleton

    found = {kind: read_skeleton(kind) for kind in KINDS}
    rows = ((f"`{kind}`", f"`virtgym list {KINDS[kind]}`", s.about) for kind, s in found.items())
    parts = [
        "# Plug-ins",
        "`virtgym new KIND NAME` writes the skeleton of a kind as a package with its test; `pip install -e "
        "NAME` makes what is in it known by name ([how](../architecture.md#things-of-your-own)). It writes:",
        _table(("kind", "listed by", "what it is"), rows),
    ]
    for kind, skeleton in found.items():
        parts += [f"## {kind}", f"{skeleton.about[0].upper()}{skeleton.about[1:]}."]
        parts.append(f"```sh\n{skeleton.use}\n```")
        for path, text in skeleton.files.items():
            if path != "pyproject.toml":
                language = "yaml" if path.endswith(".yaml") else "python"
                parts.append(f"`{path}`\n\n```{language}\n{text.rstrip()}\n```")
    parts += ["## The project", f"`pyproject.toml`, of every kind\n\n```toml\n{_project(found)}\n```"]
    return "\n\n".join(parts) + "\n"


def _project(skeletons: Mapping[str, Any]) -> str:
    return str(next(iter(skeletons.values())).files["pyproject.toml"]).rstrip()


API = (
    *("virtgym.envs", "virtgym.envs.scenarios", "virtgym.envs.sim", "virtgym.envs.traces"),
    *("virtgym.envs.inventory", "virtgym.policies", "virtgym.policies.literature"),
    *("virtgym.policies.placement", "virtgym.policies.rescheduling", "virtgym.policies.forecast"),
    *("virtgym.policies.learned", "virtgym.experiments.evaluate", "virtgym.experiments.rollout"),
    *("virtgym.experiments.report", "virtgym.experiments.replication"),
)
"""Faces that a program imports from."""


def api() -> str:
    """The faces of the packages, for mkdocstrings to fill."""
    parts = ["# Python", "What a program imports; everything else is internal."]
    parts += [f"## {name}\n\n::: {name}" for name in API]
    return "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    page.__name__: page for page in (scenarios, policies, agents, metrics, columns, view, plugins, api)
}
"""Every page by its name: ``reference/NAME.md`` of the site."""
