"""A disk whose power goes: ext4 in a file, mounted through a loop device.

What the file holds at a moment is what a disk would hold if the power went then. ext4 writes names to its journal every
five seconds, and contents of new files up to half a minute later; so between these a crash finds names without
contents. :meth:`Disk.commit` brings the journal about at once, so that nobody has to wait for that moment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MEBIBYTES = 24


def why_not() -> str:
    """Why there can be no such disk here; empty where there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root may mount"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}"
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices"


class Disk:
    """A mounted disk.

    Attributes:
        folder: Where it is mounted.
    """

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self.folder = folder

    def commit(self) -> None:
        """Let the journal go to the disk, as it does by itself every five seconds; contents of files stay."""
        bystander = self.folder / "bystander"
        bystander.touch()
        bystander.chmod(0o600)
        descriptor = os.open(bystander, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            bystander.unlink()

    def snapshot(self) -> bytes:
        """What is on the disk now, and would be if the power went."""
        before = b""
        while (now := self._image.read_bytes()) != before:  # until nobody wrote to it while it was read
            before = now
        return now

    @contextmanager
    def after_crash(self, snapshot: bytes | None = None) -> Iterator[Path]:
        """The folder as it is found when the power is back, and ext4 has read its journal."""
        image, folder = self._image.with_suffix(".crashed"), self.folder.with_name("crashed")
        image.write_bytes(self.snapshot() if snapshot is None else snapshot)
        try:
            with _mounted(image, folder):
                yield folder
        finally:
            image.unlink()


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A new disk, mounted below a folder while entered."""
    image, mounted = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(_MEBIBYTES << 20)
    options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    subprocess.run(["mkfs.ext4", *options, str(image)], check=True, capture_output=True)
    with _mounted(image, mounted):
        shutil.rmtree(mounted / "lost+found")
        yield Disk(image, mounted)


@contextmanager
def _mounted(image: Path, folder: Path) -> Iterator[None]:
    """While entered, an image is mounted; afterwards it is not, and its loop device is free."""
    folder.mkdir(exist_ok=True)
    options = "loop,commit=3600"  # so that the journal is written when we say so
    subprocess.run(["mount", "-t", "ext4", "-o", options, str(image), str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        if subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
        with suppress(OSError):
            folder.rmdir()
