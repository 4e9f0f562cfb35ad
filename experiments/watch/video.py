"""Pictures of an episode as a GIF, by Pillow, or an MP4, by moviepy."""

from __future__ import annotations

import importlib.util
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.files import write_atomically

SUFFIXES = (".gif", ".mp4")
MOST_PICTURES = 600
"""Of a longer episode every second, third, … interval is shown."""


def check_video(path: Path) -> None:
    """Check, before anything is played, that a video can be written.

    Raises:
        ConfigError: If not, and what is allowed.
    """
    need(path.suffix.lower() in SUFFIXES, f"video={path}: must end in {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("moviepy") is None:
        raise ConfigError(f"video={path}: needs moviepy (pip install 'virtgym[video]'); a .gif needs nothing")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:  # what an access bit says is not what the system does
        raise ConfigError(f"video={path}: cannot be written there ({error.strerror})") from None
    need(not path.exists() or path.is_file(), f"video={path}: is there, and no file")


class Pictures:
    """The pictures of an episode, packed.

    Args:
        env: An environment with ``render_mode="rgb_array"``.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._fps = float(env.metadata["render_fps"])
        self._packed: list[bytes] = []

    def look(self, interval: int, n: int) -> None:
        """Take a picture of the start of an interval, of n in all."""
        if interval == 0:
            self._packed.clear()
        if interval % -(-n // MOST_PICTURES) == 0:
            file = io.BytesIO()
            picture = Image.fromarray(self._env.render())
            picture.quantize(128, dither=Image.Dither.NONE).save(file, "png", compress_level=1)
            self._packed.append(file.getvalue())

    def write(self, path: Path) -> None:
        """Write the video.

        Raises:
            ConfigError: If it cannot be written.
        """
        try:
            write_atomically(path, self._write_gif if path.suffix.lower() == ".gif" else self._write_mp4)
        except OSError as error:
            raise ConfigError(f"video={path}: cannot be written ({error.strerror or error})") from None

    def _write_gif(self, path: Path) -> None:
        first, *others = (Image.open(io.BytesIO(data)) for data in self._packed)
        wait_ms = round(1000 / self._fps)
        first.save(path, save_all=True, append_images=others, duration=wait_ms, loop=0)

    def _write_mp4(self, path: Path) -> None:
        from moviepy import VideoClip

        def picture(at_s: float) -> Any:
            k = min(int(at_s * self._fps + 1e-6), len(self._packed) - 1)
            return np.asarray(Image.open(io.BytesIO(self._packed[k])).convert("RGB"))

        clip = VideoClip(picture, duration=len(self._packed) / self._fps)
        clip.write_videofile(str(path), fps=self._fps, codec="libx264", audio=False, logger=None)
