"""What is offered: kinds of candidates, how many of each, and the marks that they keep to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...checks import need, need_count, need_positive, need_share, one_of
from ...errors import ConfigError
from ...jit.records import Place, Record

MEANINGS: dict[str, str] = {
    "nothing": "close the interval",
    "relieve": "move VMs off an overloaded host until it is not, the worst host first",
    "empty": "empty a host by best fit up to a fill, then switch it off",
    "trade": "empty a host onto one that comes on and idles cheaper",
    "off": "switch an empty host off",
    "standby": "suspend an empty host",
    "on": "switch a host on: the cheapest idle, the soonest, the next",
    "keep": "keep a host that is about to be switched off",
    "balance": "spread load: by CPU, by memory, to where it costs least power",
    "place": "place the VMs that wait: best fit, spread",
    "plan": "the plan of a policy listed in `plans`",
    "own": "a kind of one's own listed in `own` (register_candidate)",
}
"""What candidates of each kind do, in the order of their slots."""

KINDS: tuple[str, ...] = tuple(MEANINGS)

NOTHING, RELIEVE, EMPTY, TRADE, OFF, STANDBY, ON, KEEP, BALANCE, PLACE, PLAN, OWN = range(len(KINDS))


class Marks(Record):
    """Numbers of the settings that kernels read, and how many slots each kind has."""

    risk = Place("standard deviations of demand above its mean that are planned for")
    weight = Place("weight of the newest demand in mean and variance")
    cpu_limit = Place("CPU load up to which a move fills a host, where memory is multiplexed")
    cpu_high = Place("CPU load above which a host is to be relieved")
    memory_high = Place("touched share of memory above which a host is to be relieved (memory tiers)")
    moves = Place("moves of one candidate that relieves or balances, at most")
    placed = Place("VMs that one candidate places, at most")
    relieve = Place("first slot of kind relieve")
    empty = Place("first slot of kind empty")
    trade = Place("first slot of kind trade")
    off = Place("first slot of kind off")
    standby = Place("first slot of kind standby")
    on = Place("first slot of kind on")
    keep = Place("first slot of kind keep")
    balance = Place("first slot of kind balance")
    place = Place("first slot of kind place")
    plan = Place("first slot of kind plan")
    own = Place("first slot of kind own")
    least = Place("hosts with the least memory that are to be emptied; the others draw the most idle power")


@dataclass(frozen=True)
class CandidateSettings:
    """What ``actions="candidates"`` offers.

    Attributes:
        relieve: Overloaded hosts that may be relieved, the worst first.
        empty_least: Hosts that may be emptied and switched off: those with the least memory.
        empty_power: Those with the highest idle power of the others.
        trade: Hosts that may go off in exchange for one that comes on and idles cheaper.
        off: Empty hosts that may be switched off.
        standby: Empty hosts that may be suspended.
        on: Hosts that may be switched on: the one that idles cheapest, the one that is on soonest, the next.
        keep: Hosts about to be switched off that may be kept.
        balance: Ways to spread load: 1 = evenly by CPU, 2 = by memory, 3 = to where it costs least power.
        place: Ways to place what waits: 1 = best fit, 2 = spread, too.
        fills: Share of a host's memory up to which VMs as configured may fill it when another is emptied,
            one candidate each, where memory is multiplexed.
        touched_fills: The same of the memory that they have touched.
        cpu_fills: CPU loads in place of both where memory is not multiplexed.
        cpu_limit: CPU load up to which moves fill a host, where memory is multiplexed.
        cpu_high: CPU load above which a host may be relieved.
        memory_high: Touched share of memory above which a host may be relieved, where memory is multiplexed.
        moves: Moves of one candidate that relieves or balances, at most.
        placed: VMs that one candidate places, at most.
        risk: Demand is planned for as its mean plus so many standard deviations, and at least as it is now.
        weight: Weight of the newest demand in both.
        plans: Policies whose plan is one candidate each: a name, dotted path, or folder of an agent.
        own: Kinds of ``register_candidate`` (name or dotted path), one candidate each.
    """

    relieve: int = 4
    empty_least: int = 3
    empty_power: int = 3
    trade: int = 2
    off: int = 2
    standby: int = 1
    on: int = 2
    keep: int = 1
    balance: int = 3
    place: int = 2
    fills: tuple[float, ...] = (1.0, 1.15, 1.3)
    touched_fills: tuple[float, ...] = (0.9,)
    cpu_fills: tuple[float, ...] = (0.65, 0.8, 0.95)
    cpu_limit: float = 0.8
    cpu_high: float = 0.9
    memory_high: float = 0.95
    moves: int = 8
    placed: int = 64
    risk: float = 1.0
    weight: float = 0.2
    plans: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        for name in ("fills", "touched_fills", "cpu_fills", "plans", "own"):
            given = getattr(self, name)
            need(
                isinstance(given, Sequence) and not isinstance(given, str),
                f"env.candidates.{name}={given!r}: must be a list",
            )
            object.__setattr__(self, name, tuple(given))
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "int"}
        need_count("env.candidates", 0, **{k: v for k, v in counts.items() if k not in ("moves", "placed")})
        need_count("env.candidates", moves=self.moves, placed=self.placed)
        for name, most in (("balance", 3), ("place", 2)):
            need(counts[name] <= most, f"env.candidates.{name}={counts[name]}: must be at most {most}")
        for name in ("fills", "touched_fills", "cpu_fills"):
            for level in getattr(self, name):
                need_positive("env.candidates", **{name: level})
        need_positive(
            "env.candidates", **{k: getattr(self, k) for k in ("cpu_limit", "cpu_high", "memory_high")}
        )
        need_share("env.candidates", weight=self.weight)
        need(math.isfinite(self.risk), f"env.candidates.risk={self.risk}: must be a finite number")

    @property
    def n_levels(self) -> int:
        """Candidates that empty a host, at most."""
        return max(len(self.fills) + len(self.touched_fills), len(self.cpu_fills))

    @property
    def counts(self) -> dict[str, int]:
        """Slots of every kind."""
        emptied = (self.empty_least + self.empty_power) * self.n_levels
        named = {"nothing": 1, "empty": emptied, "plan": len(self.plans), "own": len(self.own)}
        return {kind: named[kind] if kind in named else int(getattr(self, kind)) for kind in KINDS}

    @property
    def n(self) -> int:
        """K: number of actions."""
        return sum(self.counts.values())

    @property
    def slot_kinds(self) -> tuple[int, ...]:
        """Kind of every slot, an index into ``KINDS``, (K,)."""
        return tuple(KINDS.index(kind) for kind, n in self.counts.items() for _ in range(n))

    @property
    def marks(self) -> Marks:
        """What kernels read of the settings."""
        marks = Marks.zeros()
        for name in Marks.places:
            if hasattr(self, name) and name not in KINDS:
                setattr(marks, name, getattr(self, name))
        first = 0
        for kind, n in self.counts.items():
            if kind in Marks.places:
                setattr(marks, kind, first)
            first += n
        marks.least = self.empty_least
        return marks

    @classmethod
    def of(cls, given: CandidateSettings | Mapping[str, Any] | None) -> CandidateSettings:
        """Settings from what an environment is given.

        Raises:
            ConfigError: For an unknown key or an impossible value.
        """
        if isinstance(given, CandidateSettings):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(f"env.candidates={given!r}: must be a mapping of settings")
        known = [f.name for f in fields(cls)]
        for key in given or {}:
            one_of("env.candidates", str(key), known)
        try:
            return cls(**{str(key): value for key, value in (given or {}).items()})
        except TypeError as error:
            raise ConfigError(f"env.candidates: {error}") from None

    def plain(self) -> dict[str, Any]:
        """The settings as plain data, as an agent's folder keeps them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
