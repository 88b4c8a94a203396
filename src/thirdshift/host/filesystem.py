"""Which file system holds a path, and whether other machines write to it too.

On a network file system neither ``flock`` nor SQLite's shared memory can be trusted, so it matters before the first
lock is taken.
"""

import re
from pathlib import Path

UNKNOWN = "unknown"
_MOUNTINFO = Path("/proc/self/mountinfo")
_NETWORK_TYPES = frozenset(
    "9p acfs afs beegfs ceph cifs coda davfs gfs gfs2 glusterfs gpfs lustre ncp ncpfs ocfs2 orangefs pvfs2".split()  # noqa: SIM905 - words read better than quotes
)
_NETWORK_PREFIXES = ("nfs", "smb", "webdav")
_NETWORK_FUSE_PREFIXES = tuple(
    "blobfuse ceph curlftpfs davfs gcsfuse gluster goofys juicefs mfs moosefs nfs rclone s3fs smb sshfs".split()  # noqa: SIM905
)


def filesystem_type(path: Path, mountinfo: Path = _MOUNTINFO) -> str:
    """The type of the file system that holds *path* (``ext4``, ``nfs4`` …), which need not exist yet.

    ``"unknown"`` where the system has no ``/proc/self/mountinfo``.
    """
    try:
        lines = mountinfo.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return UNKNOWN
    resolved = path.resolve()
    found, longest = UNKNOWN, 0
    for line in lines:
        mount_point, kind = _parse(line)
        # Of two mounts on one point the later line lies on top, hence >=.
        if resolved.is_relative_to(mount_point) and len(mount_point.parts) >= longest:
            found, longest = kind, len(mount_point.parts)
    return found


def is_network_filesystem(kind: str) -> bool:
    """Whether *kind*, as :func:`filesystem_type` names it, is served by another machine."""
    fuse, _, name = kind.partition(".")
    if fuse in {"fuse", "fuseblk"}:
        return name.startswith(_NETWORK_FUSE_PREFIXES)
    return kind in _NETWORK_TYPES or kind.startswith(_NETWORK_PREFIXES)


def _parse(line: str) -> tuple[Path, str]:
    """Mount point and type of one line: ``36 35 98:0 / /mnt rw,noatime [optional …] - ext4 /dev/sda1 rw``."""
    left, _, right = line.partition(" - ")
    return Path(_unescape(left.split(" ")[4])), right.split(" ", 1)[0]


def _unescape(text: str) -> str:
    r"""The kernel writes space, tab, newline and backslash as ``\040``, ``\011``, ``\012`` and ``\134``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
