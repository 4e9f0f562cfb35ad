"""``virtgym plan|whatif|size|ha-check EXPORT`` and ``virtgym calibrate|validate``: what is typed and told."""

from __future__ import annotations

from collections.abc import Sequence

_EXPORT = """\
EXPORT is a file or folder: an RVTools workbook or its tabs as CSV, answers of Proxmox VE or Prometheus as
JSON, oVirt's data warehouse as CSV, or inventory.yaml with a usage table (docs/operators.md). It is read, and
nothing is ever sent to a platform.
"""

_KEYS = """\
keys of the export:
  usage=FILE                    usage of the VMs in place of the export's: a table, or vCenter's Get-Stat CSV
  overlay=FILE.yaml             what the export does not say: power, NUMA, rules (keys of inventory.yaml)
  cluster=NAME                  one cluster of it; default all, between which no VM moves
  missing=error|drop|previous   what to do with what is missing, default error
  format=NAME                   its format, guessed by default (virtgym list inventories)
  sample_s=S  core_mhz=MHZ      period of the usage, and speed of cores, where they are not said
"""

_METER = """\
FILE is CSV or Parquet: time (s since the trace began, or dates with start=), watts (mean since the reading
before), and host or group where there is one for each host type (docs/power.md).
"""

_METER_KEYS = """\
  power=FILE                    metered watts
  scenario=NAME|FILE.yaml       any cluster; scenario.KEY=VALUE any key of it, like scenario.trace.path=FOLDER
  forms=[NAME,…]                linear mse table busy mse_busy table_busy, default all
  blocks=N                      equal parts of the metered time, default 5: fitted on 1 to k, judged on k + 1
  start=DATE                    when the trace began, for meters with dates, and for errors by hour of the day
  lag_s=S                       how late the meter is; default as the past has it
  until_s=S                     later readings are not looked at
  gaps=error|skip               what to do where a reading is missing, default error
  scale=true|false              whether the mse forms' scale of load is fitted, too, default false
  seed=N                        of what happens by chance, default 0
"""

USAGES: dict[str, str] = {
    "calibrate": f"""\
usage: virtgym calibrate scenario=NAME power=FILE [key=value…]

Fit the power curve of a scenario's hosts to metered watts: the engine plays the trace, every form is fitted
on the past and judged on what follows, and the best is fitted on all readings. Writes calibrated.yaml, which
any command takes as scenario=FILE, validation.csv, forms.csv, parameters.csv, residuals.csv and report.html.
{_METER}
keys:
{_METER_KEYS}\
  form=best|NAME                what is written, default the form of least error in the walk forward
  out=DIR                       default runs/calibrate-<date>-<time>-<suffix>

examples:
  virtgym calibrate scenario=surf scenario.trace.path=surf-power scenario.trace.options.sample_s=30 \\
    power=surf-power/consumption_5_days.parquet out=runs/surf
  virtgym evaluate scenario=runs/surf/calibrated.yaml policy=static
  virtgym calibrate scenario=mine.yaml power=pdu.csv start=2024-05-01T00:00 form=busy
""",
    "validate": f"""\
usage: virtgym validate scenario=NAME power=FILE [key=value…]

Judge simulated power against metered watts: the scenario's own curve ("as given") on all blocks but the
first, and beside it every form, fitted on the past and judged on what follows. Writes validation.csv,
forms.csv, residuals.csv and report.html.
{_METER}
keys:
{_METER_KEYS}\
  out=DIR                       default runs/validate-<date>-<time>-<suffix>

examples:
  virtgym validate scenario=runs/surf/calibrated.yaml power=next_days.parquet
  virtgym validate scenario=mine.yaml power=pdu.csv start=2024-05-01T00:00 gaps=skip blocks=4
""",
    "plan": f"""\
usage: virtgym plan EXPORT [key=value…]

What a policy would do now: migrations in the order in which they can be carried out, each with the loads
before and after, what it gains and why, its time and the VM's downtime; or "no beneficial move".
{_EXPORT}
keys:
  policy=NAME policy.KEY=VALUE  who decides, default drs (virtgym list policies)
  warmup=N  intervals=N         intervals of history that it sees before, and that it decides, default 12
  scenario.KEY=VALUE  seed=N    any key of conf/scenario/inventory.yaml, like scenario.precopy.max_mbps=5000
  out=DIR                       plan.csv, hosts.csv and report.html, default runs/plan-<date>-<time>-<suffix>

{_KEYS}
examples:
  virtgym plan rvtools.xlsx
  virtgym plan rvtools.xlsx usage=getstat.csv policy=dpm out=runs/plan
  virtgym plan proxmox/ policy=platform policy.power=dpm_ortools
  virtgym plan inventory.yaml policy=drs policy.level=5 missing=drop
""",
    "whatif": f"""\
usage: virtgym whatif EXPORT policies=[NAME,…] [key=value…]

Compare policies on the history of an export, each starting from the cluster as it stands. Rows, files and
report are those of virtgym benchmark, whose keys it takes.
{_EXPORT}
{_KEYS}
examples:
  virtgym whatif rvtools/ policies=[static,drs,dpm]
  virtgym whatif proxmox/ policies=["drs(level=5)",platform] workers=2 out=runs/whatif
""",
    "size": f"""\
usage: virtgym size EXPORT [--host KEYS] [--failures K] [key=value…]

The fewest hosts of one kind that hold the VMs, also after K of them failed, with a bound (OR-Tools).
{_EXPORT}
keys:
  host=KEYS                     cores=64,core_ghz=2.6,memory_gib=768; the rest is as most hosts are now
  failures=K                    hosts that may fail together, default 0
  cpu=Q                         quantile of its use that a VM counts with, default 0.95; 1 = the peak
  cpu_share=S memory_share=S    how far a host may be filled, default 0.8 and 1
  time_limit_s=S                of the search, default 10
  out=DIR                       size.csv, packing.csv and report.html

{_KEYS}
examples:
  virtgym size rvtools.xlsx --failures 1
  virtgym size rvtools.xlsx --host cores=96,core_ghz=2.4,memory_gib=1536 --failures 1 cpu_share=0.7
""",
    "ha-check": f"""\
usage: virtgym ha-check EXPORT [--failures K] [key=value…]

Which VMs would not restart if K hosts, or a rack, failed: all sets of K hosts are tried where there are few,
else every host, every rack, and the K hosts with most memory in use.
{_EXPORT}
keys:
  failures=K                    hosts that fail together, default 1
  memory_overcommit=X           configured memory that a host takes, as a multiple of its own, default 1
  sets=N                        where there are more sets of hosts, not all are tried, default 2000
  time_limit_s=S                of the solver for one set, default 5
  out=DIR                       ha_check.csv and report.html

{_KEYS}
examples:
  virtgym ha-check rvtools.xlsx
  virtgym ha-check inventory.yaml --failures 2 memory_overcommit=1.2
""",
}
"""``--help`` of each command."""


def run(command: str, arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code.

    Raises:
        VirtgymError: For a user's error.
    """
    if any(text in ("-h", "--help") for text in arguments):
        print(USAGES[command], end="")
        return 0
    if command == "whatif":
        return _whatif(arguments)
    if command in ("calibrate", "validate"):
        from ..power.commands import run as run_power

        run_power(command, arguments)
        return 0
    from ..operations import commands

    {"plan": commands.plan, "size": commands.size_hosts, "ha-check": commands.check_ha}[command](arguments)
    return 0


def _whatif(arguments: Sequence[str]) -> int:
    """A benchmark on the export's history."""
    from ..operations.keys import read_request
    from .commands import COMMANDS

    return COMMANDS["benchmark"].run(read_request("whatif", arguments).overrides)
