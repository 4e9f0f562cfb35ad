"""The gate to files: no regular file, declared sizes, damage; and writing in full or not at all."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError, TraceError, VirtgymError
from virtgym.envs.files import (
    Located,
    file_stem,
    names_its_file,
    open_stream,
    open_text,
    read_arrays,
    read_bytes,
    read_npy,
    read_parquet,
    write_atomically,
)

READERS: dict[str, Callable[[Path], object]] = {
    "bytes": read_bytes,
    "stream": lambda path: open_stream(path).read(),
    "text": lambda path: open_text(path).read(),
    "npy": read_npy,
    "arrays": read_arrays,
    "parquet": read_parquet,
}


def place(path: Path, kind: str) -> None:
    """Put something that is no regular file."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "gone": "nowhere"}[kind])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "loop", "gone"])
def test_what_is_no_regular_file(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "x"
    place(path, kind)
    with pytest.raises(TraceError, match=f"{path}: ") as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_larger_than_any(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "x"
    with open(path, "wb") as file:
        file.truncate(3 << 40)
    with pytest.raises(TraceError, match=r"at most .* are read"):
        READERS[reader](path)


def test_a_nul_in_a_path() -> None:
    with pytest.raises(TraceError, match="no path has a NUL"):
        read_bytes("a\0b")


def test_limit_and_kind_of_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(9))
    assert read_bytes(tmp_path / "x", limit=9) == bytes(9)
    with pytest.raises(ConfigError, match="has 9 bytes, at most 8 are read"):
        read_bytes(tmp_path / "x", limit=8, refusal=ConfigError)
    with pytest.raises(TraceError):  # its size is 0, and it never ends
        read_bytes("/proc/self/mem", limit=1 << 20)


@pytest.mark.parametrize("unit", [b"\0", b"\n", b"1,2\n"])
def test_a_gzip_bomb(tmp_path: Path, unit: bytes) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(unit * (20_000_000 // len(unit))))
    with pytest.raises(TraceError, match=r"unpacks to more than|no text") as caught:
        open_stream(path).read()
    assert str(caught.value).startswith(f"{path}: ")


def test_a_line_without_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(5_000_000))
    with pytest.raises(TraceError, match="a line of more than 4,194,304 bytes"):
        open_text(tmp_path / "x").read()


@pytest.mark.parametrize("shape", [(10**13,), (2**62, 2**62), (-5,), (2,), (4,)])
def test_declared_size_of_an_array(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """The header counts for nothing where it says another size than the file has."""
    packed = io.BytesIO()
    np.lib.format.write_array_header_2_0(packed, {"descr": "<i8", "fortran_order": False, "shape": shape})
    packed.write(bytes(24))
    (tmp_path / "x.npy").write_bytes(packed.getvalue())
    with pytest.raises(TraceError, match=r"x.npy: not an array in numpy's .npy format \(the header declares"):
        read_npy(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", packed.getvalue())
    with pytest.raises(TraceError, match=r"x.npz: not an archive of plain arrays \(the header declares"):
        read_arrays(tmp_path / "x.npz")


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "0/w": rng.random((3, 4)),
        "f": np.asfortranarray(rng.random((3, 4))),
        "i": np.arange(5),
        "scalar": np.float64(2),
        "text": np.array(["a", "bc"]),
        "none": np.zeros((0, 3), np.float32),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    np.savez_compressed(tmp_path / "y.npz", **arrays)
    for name in ("x.npz", "y.npz"):
        found = read_arrays(tmp_path / name)
        with np.load(tmp_path / name) as expected:
            assert list(found) == expected.files
            for key in found:
                assert found[key].dtype == expected[key].dtype
                assert found[key].shape == expected[key].shape
                assert np.array_equal(found[key], expected[key])
    with pytest.raises(TraceError, match=r"unpacks to .* bytes, at most 100 are read|has .* at most 100"):
        read_arrays(tmp_path / "x.npz", limit=100)
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(10**6))
    with pytest.raises(TraceError, match="unpacks to 8,000,128 bytes, at most 100,000 are read"):
        read_arrays(tmp_path / "zeros.npz", limit=100_000)
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    with pytest.raises(TraceError):
        read_npy(tmp_path / "o.npy")


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_archives(tmp_path: Path, damage: str) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.arange(50), b=np.arange(9.0))
    content = (tmp_path / "x.npz").read_bytes()
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        if damage == "flip":
            changed[place] ^= 0x10
        (tmp_path / "y.npz").write_bytes(changed if damage == "flip" else changed[:place])
        text = ""
        try:
            read_arrays(tmp_path / "y.npz")
        except TraceError as error:
            text = str(error)
        assert text.startswith(f"{tmp_path}/y.npz: " if text else "")


def test_parquet_that_repeats_one_value(tmp_path: Path) -> None:
    """A few bytes hold 50 million rows, or 400 MB of text."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": np.zeros(50_000_000, np.int8)}), path)
    with pytest.raises(TraceError, match="declares 50,000,000 rows of 1 columns in only"):
        read_parquet(path)
    table = pa.table({"a": ["x" * 1_000_000] * 5})
    pq.write_table(pa.concat_tables([table] * 400), path)
    with pytest.raises(TraceError, match="column 'a' holds 2,000,000,000 bytes of text"):
        read_parquet(path)


def test_parquet_types_are_refused_by_name(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    columns = {
        "good": ["a", None, "b"],
        "nested": [[1], [], None],
        "coded": pa.array(list("xyx")).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), path)
    with pytest.raises(
        TraceError, match=r"column 'nested' has type list<.*, expected one plain value per row"
    ):
        read_parquet(path)
    table = read_parquet(path, lambda schema: ["coded", "good"])
    assert table.to_pydict() == {"coded": ["x", "y", "x"], "good": ["a", None, "b"]}
    assert [str(kind) for kind in table.schema.types] == ["string", "string"]


def test_what_pandas_notes_in_a_file_is_not_read(tmp_path: Path) -> None:
    """A bit may flip in it, too; notes of others stay."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    notes = {b"pandas": b'{"columns": [', b"other": b"kept"}
    pq.write_table(pa.table({"a": [1.5, 2.5]}).replace_schema_metadata(notes), path)
    table = read_parquet(path)
    assert table.to_pandas()["a"].tolist() == [1.5, 2.5]
    assert table.schema.metadata == {b"other": b"kept"}


def test_a_flipped_bit_of_a_footer_is_an_error_of_the_file(tmp_path: Path) -> None:
    """Any bit: of names, statistics, types, notes. A process of its own, since Arrow may abort."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.5, None], "é": ["x", "y"]})
    frame.to_parquet(tmp_path / "whole.parquet", index=False)
    code = (
        "import sys; from pathlib import Path\n"
        "from virtgym.envs.errors import TraceError; from virtgym.envs.files import read_parquet\n"
        "folder = Path(sys.argv[1]); path = folder / 'x.parquet'\n"
        "whole = (folder / 'whole.parquet').read_bytes(); refused = 0\n"
        "footer = int.from_bytes(whole[-8:-4], 'little')\n"
        "for bit in range(8 * (len(whole) - 8 - footer), 8 * len(whole), 13):\n"
        "    data = bytearray(whole); data[bit // 8] ^= 1 << bit % 8; path.write_bytes(data)\n"
        "    try:\n"
        "        read_parquet(path).to_pandas(use_threads=False)\n"
        "    except TraceError as error:\n"
        "        assert str(error).startswith(f'{path}: '), error\n"
        "        refused += 1\n"
        "print(refused)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 50


def test_reading_parquet_starts_no_thread(tmp_path: Path) -> None:
    """A process that ends while Arrow starts threads is aborted."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    if not sys.platform.startswith("linux"):
        pytest.skip("counts threads in /proc")
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": np.arange(10_000.0), "b": ["x"] * 10_000}), path)
    code = (
        "import os, pyarrow.parquet; from virtgym.envs.files import read_parquet\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        f"read_parquet({str(path)!r}).to_pandas(use_threads=False)\n"
        "assert len(os.listdir('/proc/self/task')) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\nb"),
        OverflowError("x"),
        KeyError("k"),
        MemoryError(),
        RecursionError("deep"),
        EOFError(),
    ],
)
def test_edge_names_the_file(error: Exception) -> None:
    @names_its_file
    def read(path: Located) -> None:
        raise error

    with pytest.raises(TraceError, match=r"^some/file: ") as caught:
        read("some/file")
    assert "\n" not in str(caught.value)


def test_edge_keeps_what_readers_say() -> None:
    @names_its_file
    def read(path: Located, *, what: int = 0) -> int:
        if what:
            raise ConfigError("as it is")
        return what

    assert read("x") == 0
    with pytest.raises(ConfigError, match=r"^as it is$"):
        read("x", what=1)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "..", "", "a/b", "a\0b", ".hidden", "ü²", "x" * 300, "\udcff"]
)
def test_a_stem_leads_nowhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{file_stem(name)}.parquet"
    assert path.resolve().parent == tmp_path.resolve()
    assert not path.name.startswith(".")
    path.write_text("")


def test_writing_in_full_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.csv"
    seen: list[Path] = []

    def write(draft: Path) -> None:
        seen.append(draft)
        draft.write_text("done")

    for _ in range(2):
        write_atomically(path, write)
    assert path.read_text() == "done"
    assert seen[0] != seen[1]  # nobody can put a link where the draft will be
    assert {draft.suffix for draft in seen} == {".csv"}

    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise VirtgymError("no")

    with pytest.raises(VirtgymError):
        write_atomically(path, fail)
    assert path.read_text() == "done"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "x").symlink_to(tmp_path / "mine")
    write_atomically(tmp_path / "x", lambda draft: draft.write_text("new"))
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "x").is_symlink()
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "y", lambda draft: draft.write_text("new"))
    finally:
        os.umask(old)
    assert (tmp_path / "y").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([[], [1]], [0, 1]),
        ([[], ["a", "b"]], [0, 2]),
        ([[], [[1]]], None),
        ([{"a": 1}, None], None),
    ],
)
def test_only_lists_of_plain_values_are_read(tmp_path: Path, values: list[Any], kept: Any) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [1, 2], "parents": values}), path)
    table = read_parquet(path, lists=("parents",))
    assert table.column_names == (["id"] if kept is None else ["id", "parents"])
    if kept is not None:
        assert [len(parents) for parents in table["parents"].to_pylist()] == kept


def test_a_list_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"parents": pa.array([[1] * 10_000_000], pa.list_(pa.int8()))}), path)
    with pytest.raises(TraceError, match="declares 1 rows of 1 columns"):
        read_parquet(path, lists=("parents",))
