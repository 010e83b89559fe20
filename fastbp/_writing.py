"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

__all__ = ["write_whole"]


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file such that a crash at any moment leaves the old one or the new one.

    The data go to a new file in the same folder and on to the disk; that file takes the place of
    the old one, and the folder goes to the disk too. The permissions are those that `open` would
    leave: the old file's, or what the umask lets through. A symbolic link stays, and the file that
    it leads to is replaced.

    Raises
    ------
    OSError
        If it cannot be written. The old file is as it was, and the new one is removed.
    """
    target = os.path.realpath(os.fsdecode(path))
    mode = _writable_mode(target)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".fastbp-{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            if mode is not None:
                os.chmod(temporary, mode)  # before there is anything in it to read
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
            error.filename = target  # which is what the caller knows of
        raise
    _sync_folder(folder)


def _writable_mode(target: str) -> int | None:
    """The permissions of a file that is there and may be written to; None where there is none."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    # a rename would ask neither the file's permission nor what kind of file it takes away
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, f"{os.strerror(code)}: no regular file", target)
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)
    return stat.S_IMODE(mode)


def _sync_folder(folder: str) -> None:
    """Put a folder's names on the disk, where the system lets one do so."""
    with contextlib.suppress(OSError):  # Windows opens no folders, and some file systems sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
