"""The file system under a path is known, network file systems are recognised."""

import sys
from pathlib import Path

import pytest

from thirdshift.host.filesystem import filesystem_type, is_network_filesystem

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 0:40 / /srv rw,relatime shared:5 master:2 - nfs4 server:/export rw,vers=4.2
31 30 254:3 / /srv/local rw,relatime - xfs /dev/vdb rw
32 22 0:50 / /mnt/my\040usb\134disk rw - fuse.sshfs me@host: rw
33 22 0:60 / /data rw - ext4 /dev/vdc rw
34 33 0:61 / /data rw - tmpfs tmpfs rw
35 22 254:9 / /srv-local rw - btrfs /dev/vdd rw
""".lstrip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/thirdshift.db", "ext4"),
        ("/srv/work/not/made/yet", "nfs4"),
        ("/srv/local/thirdshift.db", "xfs"),
        ("/srv-local/x", "btrfs"),
        ("/srvother", "ext4"),
        (r"/mnt/my usb\disk/x", "fuse.sshfs"),
        ("/data/x", "tmpfs"),
        ("/", "ext4"),
    ],
)
def test_the_longest_mount_point_decides(tmp_path: Path, path: str, kind: str) -> None:
    """A mount inside a mount wins, a later one hides the earlier, and a similar name is not a parent."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS)
    assert filesystem_type(Path(path), mountinfo) == kind


def test_a_symbolic_link_is_followed_to_where_the_bytes_lie(tmp_path: Path) -> None:
    """A link on the local disk to a network folder is a network path."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS)
    link = tmp_path / "link"
    link.symlink_to("/srv/work")
    assert filesystem_type(link / "thirdshift.db", mountinfo) == "nfs4"


def test_without_a_mount_table_the_type_is_unknown(tmp_path: Path) -> None:
    """Unknown is not a network file system: such machines are not refused."""
    assert filesystem_type(tmp_path, tmp_path / "none") == "unknown"
    assert not is_network_filesystem("unknown")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_machine_itself_answers() -> None:
    """/proc is on proc."""
    assert filesystem_type(Path("/proc/self")) == "proc"


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ocfs2",
        "webdav",
        "fuse.sshfs",
        "fuse.rclone",
        "fuse.glusterfs",
        "fuse.ceph-fuse",
        "fuse.s3fs",
        "fuse.davfs2",
    ],
)
def test_network_file_systems_are_recognised(kind: str) -> None:
    """Whatever another machine serves."""
    assert is_network_filesystem(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "tmpfs",
        "overlay",
        "apfs",
        "vfat",
        "fuse",
        "fuseblk",
        "fuse.ntfs-3g",
        "fuse.gocryptfs",
    ],
)
def test_local_file_systems_are_not(kind: str) -> None:
    """Also local ones that run over FUSE."""
    assert not is_network_filesystem(kind)
