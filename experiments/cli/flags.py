"""Hydra's own flags: what a command shows in place of running, by Hydra's parser and printers."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from virtgym.envs.errors import ConfigError
from virtgym.envs.scenarios.choices import FOLDERS, config_loader
from virtgym.policies.registry import POLICIES

from ..config.compose import CONFIG_NAMES, hydra_overrides, store_policies, told_in_one_line

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

_REFUSED = {
    "config_name": "the configuration is the command's; set keys of it, or experiment=FILE.yaml",
    "config_path": "use --config-dir DIR, or hydra.searchpath=[DIR]",
    "experimental_rerun": "use config.yaml of the run's folder",
}


@dataclass(frozen=True)
class Request:
    """What was typed after a command.

    Attributes:
        command: The command.
        overrides: Its overrides.
        flags: Hydra's flags.
    """

    command: str
    overrides: tuple[str, ...]
    flags: Namespace

    @property
    def shows(self) -> bool:
        """Whether something is shown and nothing run."""
        f = self.flags
        return bool(f.cfg or f.info or f.shell_completion or f.hydra_help)


def read_request(command: str, arguments: Sequence[str]) -> Request:
    """Read the flags of a command by Hydra's parser.

    Args:
        command: The command.
        arguments: What was typed after it.

    Raises:
        ConfigError: For a flag that does not exist, or goes with no other.
    """
    from hydra._internal.utils import get_args_parser

    _know(command)
    parser = get_args_parser()

    def refuse(message: str) -> Any:
        raise ConfigError(f"{message}; overrides are key=value, and flags are those of Hydra (--hydra-help)")

    parser.error = refuse  # type: ignore[method-assign]  # its own prints the usage of another program
    words = [text for text in arguments if text != "--version"]
    # The parser would take an override that follows for what to tell of.
    words = [
        f"{text}=all" if text == "--info" and "=" in (*words, "=")[i + 1] else text
        for i, text in enumerate(words)
    ]
    flags = parser.parse_intermixed_args(words)
    for key, advice in _REFUSED.items():
        if getattr(flags, key) is not None:
            raise ConfigError(f"--{key.replace('_', '-')}: not taken; {advice}")
    shown = {"cfg": flags.cfg, "info": flags.info, "multirun": flags.multirun, "run": flags.run}
    if len(several := [f"--{key}" for key, value in shown.items() if value]) > 1:
        raise ConfigError(f"{', '.join(several)}: choose one of them")
    for key in ("package", "resolve"):
        if getattr(flags, key) and not flags.cfg:
            raise ConfigError(f"--{key}: goes with --cfg job, hydra or all")
    FOLDERS[:] = [flags.config_dir] if flags.config_dir else []
    return Request(command, tuple(flags.overrides), flags)


def show(request: Request) -> None:
    """Print what was asked for: the composed configuration, how it came about, or help.

    Raises:
        ConfigError: If it cannot be composed, or there is no such part of it.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    flags, name = request.flags, CONFIG_NAMES[request.command]
    if flags.shell_completion:
        complete(request.overrides)
        return
    texts = hydra_overrides(request.command, request.overrides)
    hydra = _hydra(request.command)
    with told_in_one_line(texts):
        composed = hydra.compose_config(name, texts, RunMode.RUN)
        HydraConfig.instance().set_config(composed)
        if flags.hydra_help:
            # Hydra's own logging would be set up, which closes what others log to.
            flags.overrides = ["hydra/hydra_logging=none", "hydra/job_logging=none"]
            hydra.hydra_help(name, _parser(), flags)
        elif flags.cfg:
            if flags.package and OmegaConf.select(composed, flags.package) is None:
                raise ConfigError(f"--package {flags.package}: no such part of the configuration")
            hydra.show_cfg(name, texts, flags.cfg, flags.package, flags.resolve)
        else:
            _show_info(hydra, flags.info, name, texts)


def _show_info(hydra: Hydra, what: str, name: str, texts: list[str]) -> None:
    """Hydra shows by the root logger; afterwards that is as it was."""
    root = logging.getLogger()
    handlers, level, told = root.handlers[:], root.level, logging.raiseExceptions
    logging.raiseExceptions = False  # the reader of a pipe may have enough
    try:
        hydra.show_info(what, name, texts)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = told


def complete(arguments: Sequence[str]) -> None:
    """Install, take away or answer the completion of a shell, as Hydra's plug-ins do.

    Args:
        arguments: ``install=bash``, ``uninstall=bash`` or ``query=bash``, other shells likewise.

    Raises:
        ConfigError: For another argument or shell.
    """
    from .commands import COMMANDS

    command = "evaluate"
    if any(text.startswith("query=") for text in arguments):
        program, *words = os.environ.get("COMP_LINE", "virtgym ").split(" ")
        if len(words) < 2:
            print(" ".join(name for name in COMMANDS if name.startswith(words[0] if words else "")))
            return
        command = words[0]
        if command not in CONFIG_NAMES:
            return
        _know(command)
        os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
        hydra_overrides(command, ())  # stores the schemas
        store_policies(POLICIES)
    with told_in_one_line():
        try:
            _hydra(command).shell_completion(CONFIG_NAMES[command], list(arguments))
        except ValueError as error:
            raise ConfigError(f"--shell-completion: {' '.join(str(error).split())}") from None


def _know(command: str) -> None:
    """Load what is to be known of a command's keys: training and suites add their own."""
    if command == "train":
        from ..training import compose  # noqa: F401
    if command == "suite":
        from ..suite import play  # noqa: F401


def _hydra(command: str) -> Hydra:
    from hydra._internal.hydra import Hydra

    return Hydra(command, config_loader())


def _parser() -> Any:
    from hydra._internal.utils import get_args_parser

    return get_args_parser()
