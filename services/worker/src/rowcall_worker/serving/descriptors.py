"""Descriptors of registered services, from the pool that generated code registers itself in.

A worker needs no image file for the servicers it is given: their generated modules carry the same descriptors,
options included. Used by `rowcall_worker.worker` for the services that no given image has.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def image_of(services: Iterable[str]) -> bytes | None:
    """A serialised FileDescriptorSet with these services and all that they import.

    Args:
        services: Full names. Those that no generated module defines are left out.

    Returns:
        None when none of them was found.
    """
    pool = descriptor_pool.Default()
    files: dict[str, FileDescriptor] = {}
    for service in services:
        try:
            _collect(pool.FindServiceByName(service).file, files)
        except KeyError:
            continue
    if not files:
        return None
    image = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(image.file.add())
    return image.SerializeToString()


def _collect(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    """Adds a file behind everything that it imports, the order that an image has."""
    if file.name in files:
        return
    for imported in file.dependencies:
        _collect(imported, files)
    files[file.name] = file
