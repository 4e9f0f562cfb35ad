"""The command that makes the report again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virtgym.envs.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Run ``virtgym report``.

    Args:
        arguments: Folders, ``out=``, ``sections=``, ``--serve``.

    Raises:
        ConfigError: If there is no folder, or an option that does not exist.
    """
    from ..config.overrides import split_list
    from ..report import write_report

    options = [text for text in arguments if text.startswith(("out=", "sections=", "-"))]
    folders = [Path(text) for text in arguments if text not in options]
    named = [text.removeprefix("out=") for text in options if text.startswith("out=")]
    own = [name for text in options if text.startswith("sections=") for name in split_list(text[9:])]
    served = [text.removeprefix("--serve") for text in options if text.startswith("--serve")]
    for text in options:
        if text.startswith("-") and text.partition("=")[0] != "--serve":
            raise ConfigError(f"{text}: no such option; virtgym report takes out=, sections= and --serve")
    if not folders:
        raise ConfigError("name at least one run folder, like virtgym report runs/day1")
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; give folders that virtgym has written")
    if served:
        from ..report.serve import serve

        if named:
            raise ConfigError(f"out={named[-1]}: --serve writes no file; leave one of them out")
        return serve(folders, served[-1].removeprefix("="), own)
    dest = Path(named[-1]) if named else folders[0] if len(folders) == 1 else Path()
    print(f"report: {write_report(folders, dest, (), own).resolve()}")
    return 0
