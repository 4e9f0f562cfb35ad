"""What each quirk does to the numbers: one switch off at a time.

python -m virtgym.experiments.replication.ablation DAY_FOLDER [POLICY ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from virtgym.envs.errors import VirtgymError

from .golden import read_day
from .quirks import QUIRK_TEXT, Quirks
from .replica import run_replica

if TYPE_CHECKING:
    import pandas as pd

HONEST_PLACEMENT = ("drop_zero_demand", "double_moves", "memory_ignored", "stale_power", "free_power_on")


def ablation_cases() -> Iterator[tuple[str, Quirks]]:
    """Names and switches of the rows: all on, each off in turn, two known combinations, all off."""
    on = Quirks()
    yield "all on (CloudSim 3.0.3)", on
    for field in fields(Quirks):
        yield f"{field.name} off", replace(on, **{field.name: False})
    yield "stale_power, free_power_on off", replace(on, stale_power=False, free_power_on=False)
    yield "Q1, Q3, Q4, Q5 off", replace(on, **dict.fromkeys(HONEST_PLACEMENT, False))
    yield "all off", Quirks.none()


def ablate_quirks(
    util_percent: NDArray[Any], policies: Sequence[str] = ("thr-mmt", "lr-mmt"), seed: int = 0
) -> pd.DataFrame:
    """Run a day once per policy and case.

    Args:
        util_percent: CPU utilisation, percent, (N, 288).
        policies: Policies.
        seed: Seed of ``rs`` selection.

    Returns:
        One row per run: policy, case, energy and counts, and the SLA metrics in percent.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for policy in policies:
        for case, quirks in ablation_cases():
            result = run_replica(util_percent, policy, quirks, seed)
            rows.append(
                {
                    "policy": policy,
                    "case": case,
                    "energy_kwh": result.energy_kwh,
                    "migrations": result.migrations,
                    "double_moves": result.double_moves,
                    "slatah_pct": 100.0 * result.slatah,
                    "pdm_pct": 100.0 * result.pdm,
                    "sla_overall_pct": 100.0 * result.sla_overall,
                    "host_shutdowns": result.host_shutdowns,
                    "active_hosts": result.active_hosts,
                }
            )
    return pd.DataFrame(rows)


_FORMATS = {
    "energy_kwh": "{:.2f}",
    "slatah_pct": "{:.3f}",
    "pdm_pct": "{:.4f}",
    "sla_overall_pct": "{:.4f}",
    "active_hosts": "{:.1f}",
}


def to_markdown(table: pd.DataFrame) -> str:
    """Format an ablation table.

    Args:
        table: Result of ``ablate_quirks``.

    Returns:
        A Markdown table.
    """
    lines = ["| " + " | ".join(table.columns) + " |", "|---|---|" + "--:|" * (len(table.columns) - 2)]
    for row in table.to_dict("records"):
        cells = (_FORMATS.get(str(name), "{}").format(value) for name, value in row.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table of a day, and what the switches mean.

    Args:
        argv: Arguments; None = the command line's.

    Returns:
        0, or 2 for a user's error.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("day", help="PlanetLab day folder")
    parser.add_argument("policies", nargs="*", default=["thr-mmt", "lr-mmt"], help="default: thr-mmt lr-mmt")
    options = parser.parse_args(argv)
    try:
        print(to_markdown(ablate_quirks(read_day(options.day), options.policies)))
    except VirtgymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print()
    for name, text in QUIRK_TEXT.items():
        print(f"- `{name}`: {text}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
