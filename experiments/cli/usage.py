"""What ``--help`` of the shorter commands says."""

LIST = """\
usage: virtgym list [KIND] [-v]
kinds: scenarios suites policies agents detectors selectors forecasters rewards candidates columns metrics
power sections inventories traces envs

Say what there is, one line each, with what plug-ins and folders of one's own add; without a kind, all but
rewards, candidates, columns, metrics, power and sections. With -v, parameters with their defaults follow.

examples:
  virtgym list
  virtgym list policies -v
"""

REPORT = """\
usage: virtgym report DIR… [out=FOLDER|FILE.html] [sections=[my_pkg:SECTION,…]] [--serve[=PORT]]

Write report.html and report.md from stored rows, of trainings and sweeps, too; nothing is simulated. Default
out: the folder, or the current one if there are several. Sections named are added to those of plug-ins.
--serve shows the page on this machine instead, and writes it anew while a benchmark or training goes on.

examples:
  virtgym report runs/day1 --serve
  virtgym report runs/day1
  virtgym report runs/day1 runs/day2 out=both.html
"""

FORECAST = """\
usage: virtgym forecast trace=PATH [key=value…]

Compare forecasters of CPU demand on a trace: mean absolute error and skill against persistence and against
the mean, with bootstrap intervals, for VMs and for groups of VMs as hosts hold them. Writes forecast.csv and
config.yaml to out=DIR.

keys:
  trace=PATH                    file, folder or name of a fetched trace; several: [A,B]; synthetic
  trace.format=NAME             its format, guessed by default; trace.options.KEY=VALUE of its reader
  forecasters=[NAME,…]          persistence mean moving_average ewma ols loess0 loess loess_robust0
                                loess_robust seasonal, default all; with parameters: loess(window=20)
  horizons=[N,…]                steps ahead, default [1,6]
  warmup=N                      samples that a VM must have, default 30
  vms_per_host=N                VMs in a group, default 20; 0 = no groups
  origins=N                     points in time to forecast from, at most, default 500
  clip=true|false               whether forecasts are cut to what demand can be, default true
  seed=N  resamples=N           of groups and bootstrap, default 0 and 2000
  out=DIR                       default runs/forecast-<date>-<time>-<suffix>

examples:
  virtgym forecast trace=planetlab/20110303
  virtgym forecast trace=[traces/20110303,traces/20110306] horizons=[1,6,12] out=runs/skill
  virtgym forecast trace=usage.csv trace.options.fill=previous 'forecasters=[loess(window=20),ewma]'
"""


NEW = """\
usage: virtgym new KIND NAME
kinds: {kinds}

Write a package of one's own into the folder NAME: one module, one test, and the entry point by which virtgym
finds what is in it, once it is installed: pip install -e NAME.

examples:
  virtgym new policy calm
  virtgym new reader columns
"""
