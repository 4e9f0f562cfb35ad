"""One door to every export: guess the format, call its reader, check what came of it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TraceError
from ..files import names_its_file, show_path
from ..registry import Registry
from ..traces.sniffing import Look, name_look
from .base import MISSING, Draft, Inventory, known_rules, settle, take_columns
from .usage import Series, lay_usage, read_usage_table


@dataclass(frozen=True)
class Export:
    """What a reader found in an export.

    Attributes:
        draft: Hosts, VMs and rules.
        series: Usage of the VMs; None = there is none.
    """

    draft: Draft
    series: Series | None


@dataclass(frozen=True)
class Asked:
    """What is asked of a reader.

    Attributes:
        missing: One of ``MISSING``.
        core_mhz: Speed of a core where the export does not say, MHz; None = that is an error or assumed, as
            the reader has it.
        usage: Whether usage comes from elsewhere, so that the reader need not look for it.
    """

    missing: str = "error"
    core_mhz: float | None = None
    usage: bool = False


def _accepts(thing: Any) -> bool:
    returned = getattr(thing, "__annotations__", {}).get("return")
    return inspect.isfunction(thing) and str(getattr(returned, "__name__", returned)) == "Export"


INVENTORY_FORMATS = Registry(
    "inventory format", _accepts, "a function of a path and what is asked, annotated as -> Export", TraceError
)
"""Exports that are read; each is recognised by the function ``sniff`` of the reader's module."""

for _name, _reader, _text in (
    ("neutral", "neutral:read_neutral", "your own inventory.yaml and a usage table (docs/operators.md)"),
    ("rvtools", "rvtools:read_rvtools", "RVTools: workbook .xlsx, or folder with a CSV per tab"),
    ("proxmox", "proxmox:read_proxmox", "Proxmox VE: folder with cluster/resources and rrddata as JSON"),
    (
        "prometheus",
        "prometheus:read_prometheus",
        "Prometheus range queries of libvirt and node exporter, JSON",
    ),
    ("ovirt", "ovirt:read_ovirt", "oVirt data warehouse: CSV of VMs, hosts and VM statistics"),
):
    INVENTORY_FORMATS.register(_name, _text, f"{__package__}.formats.{_reader}")


def read_inventory(
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    usage: str | os.PathLike[str] | None = None,
    overlay: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    missing: str = "error",
    sample_s: float | None = None,
    core_mhz: float | None = None,
) -> Inventory:
    """Read an export.

    Args:
        path: File or folder.
        format: A name of `INVENTORY_FORMATS`, or ``auto`` to guess it.
        usage: Usage of the VMs in place of the export's own: a usage table, or vCenter's performance CSV.
        overlay: YAML with what the export does not say: keys of ``inventory.yaml`` for hosts and rules. By
            default ``overlay.yaml`` of an export that is a folder, if it is there.
        cluster: Take the hosts and VMs of one cluster; None = of all.
        missing: What to do with what is missing, one of ``MISSING``.
        sample_s: Period of the usage, s; None = as the times have it.
        core_mhz: Speed of a core where the export does not say, MHz.

    Raises:
        TraceError: One line that names file, sheet and row or line, and column.
    """
    where = show_path(path)
    if missing not in MISSING:
        raise TraceError(f"missing={missing}: must be one of {', '.join(MISSING)}")
    if core_mhz is not None and not 0 < core_mhz <= 1e5:
        raise TraceError(f"core_mhz={core_mhz:g}: must be positive, at most 1e5")
    if not os.path.lexists(path):
        raise TraceError(f"{where}: no such file or folder")
    name = _guess(Path(path)) if format == "auto" else format
    reader: Callable[..., Export] = INVENTORY_FORMATS.find(name).factory
    export = names_its_file(reader)(path, asked=Asked(missing, core_mhz, usage is not None))
    draft, series = export.draft, export.series
    if usage is not None:
        series = names_its_file(_read_usage)(usage)
    beside = Path(path) / "overlay.yaml"
    if overlay is None and beside.is_file():
        overlay = beside
    if overlay is not None:
        from .formats.neutral import lay_over

        names_its_file(lay_over)(overlay, draft=draft)
    hosts, vms = settle(draft, missing, cluster, where)
    if series is None:
        raise TraceError(
            f"{where}: has no usage of its VMs; usage=FILE names a table of it (docs/operators.md)"
        )
    laid, keep = lay_usage(series, vms, hosts, missing, sample_s, draft.notes)
    vms = [vm for vm, kept in zip(vms, keep) if kept]
    root = Path(path)
    return Inventory(
        name=(root.resolve().name if root.is_dir() else root.name.split(".")[0]) or name,
        format=name,
        source=str(path),
        hosts=tuple(hosts),
        vms=tuple(vms),
        rules=known_rules(draft.rules, hosts, vms, draft.notes),
        usage=laid if keep.sum() == laid.cpu.shape[1] else take_columns(laid, np.flatnonzero(keep)),
        notes=draft.notes.tell(),
    )


def _read_usage(path: str | os.PathLike[str]) -> Series:
    from .formats.vcenter import read_vcenter, sniff

    return read_vcenter(Path(path)) if sniff(Look(Path(path))) else read_usage_table(Path(path))


def _guess(path: Path) -> str:
    look = Look(path)
    found = [name for name in INVENTORY_FORMATS if _sniff(name, look)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(INVENTORY_FORMATS)
    if found:
        raise TraceError(f"{show_path(path)}: may be of the formats {', '.join(found)}; say format=NAME")
    seen = name_look(look)
    raise TraceError(
        f"{show_path(path)}: is of no known export{f' (it looks like {seen})' if seen else ''}; "
        f"formats: {known}, format=NAME names one"
    )


def _sniff(name: str, look: Look) -> bool:
    module = inspect.getmodule(INVENTORY_FORMATS.find(name).factory)
    sniff = getattr(module, "sniff", None)
    return bool(sniff is not None and sniff(look))
