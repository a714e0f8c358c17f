"""Reads the data of binary events from the file storage, for a connection that sends it.

    events = [encoder.encode_event(entry) for entry in entries]
    if encoder.references:
        await add_data(events, encoder.references, files)

The data of an event is in memory at the node that has appended it. A node that has restored the
session from a copy has only the reference to its file.
"""

from typing import Protocol

import trio

from netra_trio.errors import ContentMissing, StorageUnavailable
from netra_trio.ids import FileId
from netra_trio.protocol.compact import DataReference

DATA_SECONDS = 2.0  # for the data of one write, which delays all other frames


class DataFiles(Protocol):
    """The files, as this module reads them."""

    async def read_bytes(self, file_id: FileId, max_bytes: int) -> bytes:
        """Return the first bytes of a file."""
        ...


async def add_data(events: list[bytes], references: list[DataReference], files: DataFiles) -> bool:
    """Replace the frames of the references by frames with their data; clear the references.

    An event whose data cannot be read in time keeps its frame: the client reads the file itself.
    Cancelling is safe.

    Args:
        events: The frames of events, which have those of the references among them.
        references: The references, in the same order.
        files: The files.

    Returns:
        Whether the storage has answered in time. If not, the next write would wait as well.
    """
    wanted = references.copy()
    references.clear()
    with trio.move_on_after(DATA_SECONDS):
        for reference in wanted:
            try:
                data = await files.read_bytes(reference.file_id, reference.size)
            except ContentMissing:
                continue
            except StorageUnavailable:
                return False
            if len(data) == reference.size:
                events[events.index(reference.frame)] = reference.with_data(data)
        return True
    return False
