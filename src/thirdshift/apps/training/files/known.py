"""Which contents the queue and the archive hold already, by the hash of their bytes: one small file for each.

An entry only says where to look: what is not there any more is not known. So a lost or an old one does no harm.
"""

import json
import os
from pathlib import Path

from thirdshift.host.files import write_atomically


class KnownContents:
    """The entries in *folder*, beside the queue's own; written by the process that holds the instance lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note(self, content_hash: str, name: str, archived: str = "") -> None:
        """Say that the file *name* of the queue has this content; once it has left, *archived* says where it lies."""
        if content_hash:
            document = {"file": name, "archived": archived}
            write_atomically(self.folder / f"{content_hash}.json", json.dumps(document).encode(), durable=False)

    def find(self, content_hash: str) -> tuple[str, Path | None] | None:
        """Return the name of the file with this content, and where it was archived to, if it was."""
        try:
            document = json.loads((self.folder / f"{content_hash}.json").read_bytes())
            name, archived = str(document["file"]), str(document["archived"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return name, (Path(os.path.normpath(self.folder.parent / archived)) if archived else None)

    def forget(self, content_hash: str) -> None:
        """The content was refused or given up: when it comes again, it is looked at again."""
        if content_hash:
            (self.folder / f"{content_hash}.json").unlink(missing_ok=True)
