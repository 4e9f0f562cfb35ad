"""The command line: ``virtgym COMMAND [key=value…]``.

Only what a command needs is imported, and only when it runs: ``virtgym list`` and ``--help`` answer at once.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .usage import FORECAST, LIST, REPORT

_USER_ERRNOS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR),
)

_KEYS = """\
keys:
  scenario=NAME|FILE.yaml       what is simulated (virtgym list scenarios)
  scenario.KEY=VALUE            any key of it, like scenario.trace.path=FOLDER scenario.memory=binding
  env.KEY=VALUE                 clusters: env.reward.TERM=WEIGHT, env.actions=unrolled|candidates|knobs
  experiment=NAME|FILE.yaml     a prepared set of overrides (conf/experiment)
"""

_LAUNCHER = """\
  launcher=local|joblib|ray|slurm   what runs the cells, default processes of this machine (docs/scaling.md);
                                workers=N at once, launcher.address= partition= time= mem= cpus= retries=
"""

_FLAGS = """\
flags of Hydra: --cfg job|hydra|all [--package P] [--resolve], --info [WHAT], --config-dir DIR, --hydra-help;
likewise hydra.searchpath=[DIR], +key=VALUE, ++key=VALUE, ~key
"""

_EVALUATE = f"""\
usage: virtgym evaluate [key=value…]

Run one policy on one scenario. Writes results.parquet, results.csv, steps.parquet and config.yaml to out=DIR.

{_KEYS}\
  policy=NAME|FOLDER|CLASS      who decides (virtgym list policies), an agent's folder, or module.Class
  policy.PARAMETER=VALUE        a parameter of it
  seed=N  seeds=[N,…]           default 0
  out=DIR                       default runs/<scenario>-<date>-<time>-<suffix>
{_LAUNCHER}\
  -m                            keys may have several values: every combination runs, sweep.csv compares them

{_FLAGS}
examples:
  virtgym evaluate scenario=demo policy=ols-mmt
  virtgym evaluate -m scenario=small policy=dpm policy.target=0.6,0.7 scenario.memory=binding,ignored
  virtgym evaluate scenario=planetlab scenario.trace.path=traces/20110303 policy=thr-mmt policy.safety=0.9
  virtgym evaluate scenario=planetlab_cloudsim3 scenario.quirks.double_moves=false policy=lr-mmt
  virtgym evaluate scenario=huawei_placement scenario.trace.path=requests.csv policy=best_fit
"""

_BENCHMARK = f"""\
usage: virtgym benchmark [key=value…]

Run a grid of policies and seeds, and write report.html. Finished cells of out=DIR are not run again: after a
crash or Ctrl-C the same command goes on where it stopped.

{_KEYS}\
  policies=[NAME,…]             who decides; with parameters: policies=["ols-mmt(safety=1.3)",thr-mmt]
  seeds=[N,…]                   default [0]
{_LAUNCHER}  out=DIR                       default runs/<scenario>-<date>-<time>-<suffix>
  report=true|false             whether to write report.html, default true
  suite=NAME|FILE.yaml          in place of scenario=: every task of a suite, one score (virtgym list suites);
                                suite.size=small|80|800, suite.split=test|validation|train, suite.tasks=[…]
  policy=NAME policy.KEY=VALUE  in place of policies=: one of them, whose parameters may be swept
  -m                            keys may have several values: every combination runs, sweep.csv compares them

{_FLAGS}
examples:
  virtgym benchmark scenario=demo seeds=[0,1,2] workers=2
  virtgym benchmark suite=virtgym-1 launcher=slurm launcher.partition=cpu workers=50
  virtgym benchmark -m policy=dpm policy.target=0.6,0.7 scenario.memory=binding,ignored
  virtgym benchmark experiment=literature scenario.trace.path=traces/20110303 out=runs/day1
  virtgym benchmark scenario=demo_placement policies=[first_fit,best_fit,runs/ppo/agent]
"""

_TRAIN = f"""\
usage: virtgym train [key=value…] [-m]

Train an agent on placement, a cluster or rescheduling, evaluate it on what training does not play, and keep
the best in out=DIR/agent, which any other command takes as a policy. After a crash, kill -9 or Ctrl-C the
same command goes on from the last checkpoint. With -m, keys may have several values: every combination is
trained, in a folder of its own, and sweep.csv compares them.

keys:
  agent=NAME                    who learns (virtgym list agents); agent.KEY=VALUE any setting of it
  scenario=NAME|FILE.yaml       of placement, a cluster or rescheduling; scenario.KEY=VALUE any key
  total_timesteps=N             decisions, default 1000000, of clusters 200000, of rescheduling 50000
  seed=N                        of everything random in learning, default 0
  seeds=[N,…]                   several, also [0..9]: a folder each, in a batch where the agent can
  device=cpu|cuda|auto          where networks learn, default cpu; auto = the GPU if there is one
  tracker=NAME|[NAME,…]|none    tensorboard, wandb, mlflow; default tensorboard where it is installed
  num_envs=N                    environments that step together, default 256, else 8
  reward=NAME wait_scale_s=T    placement only, reward of training: delay, wait, spane; its scale
  env.reward.TERM=WEIGHT        clusters only, reward of training, default minus the cost
  env.candidates.KEY=VALUE      clusters only, what an agent may choose from
  eval_every=N                  decisions between evaluations
  checkpoint_every=N            decisions between checkpoints, default at evaluations
  initial=FOLDER                begin with the weights of an agent
  import=FILE.zip               likewise of Stable-Baselines3's zip; it may run any code: only what you trust
  out=DIR                       default runs/<agent>-<scenario>-<date>-<time>
{_LAUNCHER}
{_FLAGS}
examples:
  virtgym train agent=ppo scenario=demo_placement total_timesteps=500000 out=runs/ppo
  virtgym train agent=imitation scenario=rescheduling total_timesteps=10000 out=runs/moves
  virtgym train agent=forecaster scenario=suite/diurnal out=runs/forecaster
  virtgym train scenario=demo_placement -m agent.learning_rate=1e-4,3e-4 seed=0,1 out=runs/sweep
  virtgym evaluate scenario=demo_placement policy=runs/ppo/agent
"""

_TUNE = f"""\
usage: virtgym tune what=policy|agent KEY=SWEEP… [key=value…]

Search for the setting of a rule or of an agent with Optuna, and judge the best one against the default on
seeds or traces that the search has not seen. Writes study.journal, trials.csv, best.yaml and report.html to
out=DIR. After a crash, kill -9 or Ctrl-C the same command goes on; with a larger n_trials it adds trials.

keys:
  what=policy|agent             what is tuned, default policy; as of evaluate and train all keys of it:
                                policy=NAME policy.KEY=VALUE, agent=NAME agent.KEY=VALUE total_timesteps=N
  policy.KEY=SWEEP              values to search, in Hydra's syntax: choice(a,b) range(1,9,2)
  agent.KEY=SWEEP               interval(0.5,0.9) int(interval(1,9)) tag(log,interval(1e-5,1e-3))
  space=FILE.yaml               the same in a file, a line each: policy.target: interval(0.5,0.9)
  n_trials=N                    trials in all, default 50
  sampler=tpe|cmaes|random|grid default tpe; seed=N of it, default 0
  pruning=none|median|asha      ends trials that look bad, default median; of several objectives none
  objectives=[METRIC,…]         to be small: means over the seeds, default cost; of agents their validation
  seeds=[N,…] traces=[PATH,…]   what every trial plays: seeds of the split for training, each on every trace
  validation_seeds=[N,…] validation_traces=[PATH,…]   what the best setting is judged on
{_LAUNCHER}  storage=URL                   a database that several machines share, in place of study.journal
  out=DIR report=true|false     default runs/tune-<scenario>-<date>-<time>, true

examples:
  virtgym tune scenario=small policy=thr-mmt 'policy.safety=interval(0.5,1)' n_trials=20 out=runs/thr
  virtgym tune scenario=suite/diurnal policy=dpm 'policy.risk=range(0,2.1,0.5)' sampler=grid workers=2
  virtgym tune scenario=planetlab policy=loess-mmt 'policy.safety=interval(0.8,3)' \\
    traces=[traces/20110303,traces/20110306] validation_traces=[traces/20110325]
  virtgym tune scenario=small what=agent agent=ppo 'agent.learning_rate=tag(log,interval(1e-5,1e-3))'
"""

_WATCH = f"""\
usage: virtgym watch [key=value…]

Play an episode of a cluster, and write episode.html to out=DIR: a page of its own that replays it, with hosts
and VMs, orders, what went wrong, what it costs, and of agents and searches the candidates and what they made
of each.

{_KEYS}\
  policy=NAME|FOLDER|CLASS      who decides (virtgym list policies), an agent's folder, or module.Class
  policy.PARAMETER=VALUE        a parameter of it
  seed=N                        default 0
  video=FILE.gif|FILE.mp4       a video, too; .mp4 needs the extra virtgym[video]
  out=DIR                       default runs/<scenario>-<date>-<time>-<suffix>

{_FLAGS}
examples:
  virtgym watch scenario=small policy=dpm out=runs/dpm
  virtgym watch scenario=ha_cold policy=ha seed=3 video=ha.gif
  virtgym watch scenario=small policy=runs/small/agent
"""


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        summary: One line.
        usage: Its ``--help``; None = it has its own.
        run: Runs it; returns the exit code.
    """

    summary: str
    usage: str | None
    run: Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; None = those of the process.

    Returns:
        0; 2 after a user's error, told in one line on stderr; 1 after an internal error; 130 after Ctrl-C.
    """
    # Before NumPy loads: with several threads BLAS rounds otherwise, which training feels, and its small
    # products take up to 80 times as long on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if argv is None:
        # What a command loads stays to its end: a third of a small plan's time goes into looking through it
        # for garbage, and once more when the process ends.
        gc.set_threshold(50_000, 20, 100)
        atexit.register(gc.freeze)
    # Modules of one's own are found from where one stands, after whatever is installed.
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(), end="")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from importlib import metadata

        print(f"virtgym {metadata.version('virtgym')}")
        return 0
    if name in ("--shell-completion", "-sc"):
        return _guarded(name, Command("", None, _complete), rest)
    if name not in COMMANDS:
        return _fail(f"virtgym: {_unknown('command', name, list(COMMANDS))}")
    command = COMMANDS[name]
    if command.usage is not None and any(text in ("-h", "--help") for text in rest):
        print(command.usage, end="")
        return 0
    return _guarded(name, command, rest)


def _guarded(name: str, command: Command, arguments: Sequence[str]) -> int:
    """Run a command; every error becomes an exit code and as little text as tells what to do."""
    import warnings

    # Those of this package are for the user: one line each, without the place in the code.
    plain = warnings.formatwarning
    warnings.formatwarning = lambda message, kind, *rest, **more: (
        f"virtgym {name}: warning: {message}\n"
        if kind.__module__.startswith("virtgym.")
        else plain(message, kind, *rest, **more)
    )
    try:
        return command.run(arguments)
    except KeyboardInterrupt as stop:
        return _fail(f"virtgym {name}: {stop if str(stop) else 'interrupted'}", 130)
    except SystemExit as stop:  # of a module of the user's own: commands end by returning
        return _fail(f"virtgym {name}: stopped by a call of exit({stop.code})", 1)
    except BrokenPipeError:  # the reader of a pipe has enough, like ``virtgym list | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from virtgym.envs.errors import VirtgymError

        if isinstance(error, VirtgymError):
            return _fail(f"virtgym {name}: {error}")
        if isinstance(error, OSError) and error.errno in _USER_ERRNOS:
            return _fail(f"virtgym {name}: {error.filename}: {error.strerror}")
        import traceback

        print("".join(traceback.format_exception(error, limit=-4)), file=sys.stderr, end="")
        return _fail(f"virtgym {name}: internal error, please report it: {type(error).__name__}: {error}", 1)


def _fail(text: str, code: int = 2) -> int:
    print(" ".join(text.splitlines()), file=sys.stderr)
    return code


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    from virtgym.envs.checks import hint

    return f"{name}: no such {what}{hint(name, known)}; there are: {', '.join(known)}"


def _overview() -> str:
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return (
        "usage: virtgym COMMAND [key=value…]\n\n"
        "Simulate virtualized clusters under rules, solvers and agents.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n"
        "virtgym COMMAND --help says more. Start with:\n"
        "  virtgym benchmark scenario=demo\n"
    )


def _list(arguments: Sequence[str]) -> int:
    from .listing import KINDS, print_kinds

    verbose = ("-v", "--verbose")
    kinds = [text for text in arguments if text not in verbose]
    for kind in kinds:
        if kind not in KINDS:
            return _fail(f"virtgym list: {_unknown('kind', kind, KINDS)}")
    print_kinds(kinds, len(kinds) < len(arguments))
    return 0


def _hydra(command: str, arguments: Sequence[str]) -> int:
    """A command that Hydra composes: shown, swept or run, as its flags say."""
    from .flags import read_request, show

    of_suite = any(text.lstrip("+").startswith(("suite=", "suite.")) for text in arguments)
    command = "suite" if command == "benchmark" and of_suite else command
    request = read_request(command, arguments)
    if request.shows:
        show(request)
        return 0
    if not request.flags.multirun:
        return _RUNS[command](request.overrides)
    if command == "watch":
        return _fail("virtgym watch: -m: shows one episode; sweep with evaluate, benchmark or train")
    from .sweep import run_sweep

    sweep = run_sweep(command, request.overrides)
    print(sweep.table.to_string(index=False))
    print(f"sweep: {sweep.folder / 'sweep.csv'}")
    for text in sweep.failures:
        _fail(f"virtgym {'benchmark' if command == 'suite' else command}: {text}")
    return (1 if sweep.internal else 2) if sweep.failures else 0


def _evaluate(arguments: Sequence[str]) -> int:
    from ..config.compose import compose_run
    from .benchmark import benchmark
    from .progress import print_results

    outcome = benchmark(compose_run("evaluate", arguments))
    if outcome.failures:
        return _tell_failures("evaluate", outcome.failures)
    print_results(outcome.rows)
    print(f"results: {outcome.out}")
    return 0


def _benchmark(arguments: Sequence[str]) -> int:
    from ..config.compose import compose_run
    from .benchmark import benchmark
    from .progress import print_results

    run = compose_run("benchmark", arguments)
    outcome = benchmark(run)
    if len(outcome.rows):
        print_results(outcome.rows)
        print(f"results: {outcome.out}")
        if run.config["report"]:
            from ..report import write_report

            print(f"report: {write_report([outcome.out], outcome.out).resolve()}")
    return _tell_failures("benchmark", outcome.failures) if outcome.failures else 0


def _suite(arguments: Sequence[str]) -> int:
    from ..suite.play import compose_suite, play
    from .progress import print_standings

    plan = compose_suite(arguments)
    outcome = play(plan)
    if len(outcome.table):
        print_standings(plan.suite, outcome.table, outcome.standings)
        print(f"results: {outcome.out / 'suite.csv'}")
        if plan.report:
            print(f"report: {(outcome.out / 'report.html').resolve()}")
    return _tell_failures("benchmark", outcome.failures) if outcome.failures else 0


def _train(arguments: Sequence[str]) -> int:
    from ..config.compose import compose_command
    from ..training.compose import make_run
    from .jobs import train_here_or_elsewhere
    from .progress import print_results
    from .seeds import train_over_seeds

    composed = compose_command("train", arguments)
    run = make_run(composed.config, composed.typed_scenario, composed.own_scenario)
    if run.config["seeds"] is not None:
        return train_over_seeds(run)
    outcome = train_here_or_elsewhere(composed, run)
    if "forecaster" in outcome.rows:
        from .forecast import print_skill

        print_skill(outcome.rows)
    else:
        print_results(outcome.rows)
    print(f"agent: {outcome.out / 'agent'}")
    return 0


def _tune(arguments: Sequence[str]) -> int:
    from ..tune.plan import compose_tune
    from ..tune.report import print_study, write_study_report
    from ..tune.study import tune

    outcome = tune(compose_tune(arguments))
    print_study(outcome)
    print(f"trials: {outcome.plan.out / 'trials.csv'}")
    print(f"best: {outcome.plan.out / 'best.yaml'}")
    if outcome.plan.config.report:
        print(f"report: {write_study_report(outcome).resolve()}")
    return _tell_failures("tune", outcome.failures) if outcome.failures else 0


def _watch(arguments: Sequence[str]) -> int:
    from ..config.compose import compose_run
    from ..watch.episode import watch
    from .progress import Progress, print_results

    run = compose_run("watch", arguments)
    name = f"{run.policies[0].label} seed {run.seeds[0]}"
    with Progress(1) as progress:
        seen = watch(run, lambda n, total: progress.reach(name, n / total))
        progress.advance(name, [dict(row) for _, row in seen.rows.iterrows()])
    print_results(seen.rows)
    print(f"page: {seen.page.resolve()}")
    if seen.video is not None:
        print(f"video: {seen.video.resolve()}")
    return 0


def _tell_failures(command: str, failures: Sequence[object]) -> int:
    """Say which cells failed; 2 if all of it is the user's to mend, else 1."""
    from .benchmark import Failure

    internal = False
    for failure in failures:
        assert isinstance(failure, Failure)
        internal |= bool(failure.trace)
        if failure.trace:
            print("\n".join(failure.trace.splitlines()[-7:]), file=sys.stderr)
        where = f" (log: {failure.log})" if failure.log else ""
        _fail(f"virtgym {command}: {failure.name}: {failure.message}{where}")
    return 1 if internal else 2


def _report(arguments: Sequence[str]) -> int:
    from .report import main as report_main

    return report_main(arguments)


def _new(arguments: Sequence[str]) -> int:
    from .new import main as new_main

    return new_main(arguments)


def _forecast(arguments: Sequence[str]) -> int:
    from .forecast import main as forecast_main

    return forecast_main(arguments)


def _complete(arguments: Sequence[str]) -> int:
    from .flags import complete

    complete(arguments)
    return 0


def _operate(command: str, arguments: Sequence[str]) -> int:
    from .operations import run

    return run(command, arguments)


def _traces(arguments: Sequence[str]) -> int:
    from .traces import main as traces_main

    try:
        return traces_main(arguments)
    except SystemExit as stop:  # argparse leaves this way after --help
        return stop.code if isinstance(stop.code, int) else 0


_RUNS: dict[str, Callable[[Sequence[str]], int]] = {
    "evaluate": _evaluate,
    "benchmark": _benchmark,
    "suite": _suite,
    "train": _train,
    "watch": _watch,
}
"""What runs a command that Hydra composes."""

COMMANDS: dict[str, Command] = {
    "list": Command("scenarios, policies, agents, traces and environments that there are", LIST, _list),
    "evaluate": Command("one policy on one scenario", _EVALUATE, partial(_hydra, "evaluate")),
    "benchmark": Command(
        "policies x seeds, resumable and parallel, with a report", _BENCHMARK, partial(_hydra, "benchmark")
    ),
    "train": Command("train an agent, keep the best; sweeps with -m", _TRAIN, partial(_hydra, "train")),
    "tune": Command("search for the best setting of a rule or an agent, and judge it", _TUNE, _tune),
    "watch": Command("an episode as a page that replays it, or a video", _WATCH, partial(_hydra, "watch")),
    "report": Command("the report again, from stored results", REPORT, _report),
    "forecast": Command("skill of forecasters of demand on a trace", FORECAST, _forecast),
    "plan": Command("what to do now with an operator's own cluster", None, partial(_operate, "plan")),
    "whatif": Command("policies on the history of such a cluster", None, partial(_operate, "whatif")),
    "size": Command("the fewest hosts for its VMs, with a bound", None, partial(_operate, "size")),
    "ha-check": Command("the VMs that failures would leave down", None, partial(_operate, "ha-check")),
    "calibrate": Command("the power of hosts, fitted to metered watts", None, partial(_operate, "calibrate")),
    "validate": Command("simulated power against metered watts", None, partial(_operate, "validate")),
    "new": Command("a tested package of one's own: a policy, a reader, …", None, _new),
    "traces": Command("download, check and convert traces", None, _traces),
}
"""Commands by name."""
