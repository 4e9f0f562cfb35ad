"""Which hosts a VM may migrate to for its CPU, its kernel and its devices (docs §6).

A VM sees the CPU features of its *baseline* (VMware calls it an EVC level), fixed when it is switched on: the
highest level that the host offers and the cluster allows. It may move to every host that offers all of them,

    baseline & ~features = 0

and keeps its baseline there, on a newer host too, until it restarts. Features are bits of a 64-bit word.
Levels of one vendor are nested: each adds features to the one before. Levels of different vendors are not
comparable, as the vendor itself counts as a feature (``suits.lacks_features``).

``os_level`` VMs share the host's kernel and cannot cross kernel generations. A VM with a passthrough device
is pinned to its host, unless the device supports migration. All three are refused by ``orders.check_move``.

The built-in levels name what each generation added that guests commonly use (from memory, after the vendors'
and VMware's EVC documentation); they are data, and replaceable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...arrays import I4, U8
from ...checks import need

MAX_FEATURES = 64

CPU_LEVELS: dict[str, tuple[tuple[str, str], ...]] = {
    "intel": (
        ("merom", "sse3 ssse3"),
        ("penryn", "sse4_1"),
        ("nehalem", "sse4_2 popcnt"),
        ("westmere", "aes pclmulqdq"),
        ("sandy_bridge", "avx xsave"),
        ("ivy_bridge", "f16c rdrand fsgsbase"),
        ("haswell", "avx2 bmi fma movbe invpcid"),
        ("broadwell", "adx rdseed smap"),
        ("skylake", "avx512f avx512bw clwb"),
        ("cascade_lake", "avx512_vnni"),
        ("ice_lake", "sha vaes gfni"),
        ("sapphire_rapids", "amx avx512_fp16"),
    ),
    "amd": (
        ("opteron_gen3", "sse3 sse4a popcnt"),
        ("bulldozer", "ssse3 sse4_1 sse4_2 aes pclmulqdq avx xsave"),
        ("piledriver", "bmi1 f16c fma"),
        ("steamroller", "fsgsbase"),
        ("zen", "avx2 bmi adx rdseed rdrand sha smap movbe"),
        ("zen2", "clwb"),
        ("zen3", "vaes invpcid"),
        ("zen4", "avx512f avx512bw avx512_vnni gfni"),
    ),
}
"""Per vendor the levels from old to new, each with the features that it adds."""


@dataclass(frozen=True)
class CpuLevels:
    """Levels as bit sets.

    Attributes:
        vendors: Per vendor the (level, features it adds) from old to new.
    """

    vendors: Mapping[str, tuple[tuple[str, str], ...]]

    def __post_init__(self) -> None:
        """Check names and the number of features.

        Raises:
            ConfigError: If a level is named twice or there are more than 64 features.
        """
        names = self.names
        need(len(set(names)) == len(names), "cpu levels: a level is named twice")
        need(len(names) > 0, "cpu levels: needs at least one level")
        n = len(self.features)
        need(n <= MAX_FEATURES, f"cpu levels: {n} features, vendors included; at most {MAX_FEATURES}")

    @property
    def names(self) -> tuple[str, ...]:
        """All levels, vendor by vendor, from old to new; their index is the level's code."""
        return tuple(name for levels in self.vendors.values() for name, _ in levels)

    @property
    def features(self) -> tuple[str, ...]:
        """All features in the order of their bits; each vendor's name is one."""
        found: dict[str, None] = {}
        for vendor, levels in self.vendors.items():
            found[vendor] = None
            for _, added in levels:
                found.update(dict.fromkeys(added.split()))
        return tuple(found)

    def bits(self) -> U8:
        """Features of every level, shape (L,)."""
        at = {feature: np.uint64(1) << np.uint64(i) for i, feature in enumerate(self.features)}
        words = []
        for vendor, levels in self.vendors.items():
            word = at[vendor]
            for _, added in levels:
                for feature in added.split():
                    word = word | at[feature]
                words.append(word)
        return np.array(words, dtype=np.uint64)

    def code(self, name: str) -> int:
        """Code of a level.

        Raises:
            ConfigError: If there is no such level.
        """
        need(name in self.names, f"cpu_level={name}: no such level (known: {', '.join(self.names)})")
        return self.names.index(name)


def baselines_at_power_on(host_features: U8, level_bits: U8, allowed: U8 | None = None) -> I4:
    """Level that a VM gets when it is switched on, per host.

    Args:
        host_features: Features of every host, shape (H,).
        level_bits: Features of every level, from old to new within a vendor, shape (L,).
        allowed: Features that the cluster allows, a word; None = all.

    Returns:
        Shape (H,): the highest level whose features host and cluster offer; -1 if there is none.
    """
    offered = host_features if allowed is None else host_features & allowed
    fits = (level_bits[None, :] & ~offered[:, None]) == 0
    last = level_bits.shape[0] - 1 - np.argmax(fits[:, ::-1], axis=1)
    return np.where(fits.any(axis=1), last, -1).astype(np.int32)
