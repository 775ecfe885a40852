"""The files of a catalogue as reflection describes them to clients. Used by the gateway's reflection.

Clients know files by name alone, and keep what they are given in one pool; images have different files of one name. So the
first one has its name, and each other is told under a name of its own, as are the files that import it, with their imports
written anew: what a client is given of one service fits together, and comes from that service's image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from rowcall.catalogue.files import is_shared
from rowcall.catalogue.images import Catalogue, LoadedImage


class _Described(NamedTuple):
    image: LoadedImage
    """One that has the file."""
    name: str
    """Its name there."""


class DescribedFiles:
    """Every file of a catalogue, by the name that clients are told."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._files: dict[str, _Described] = {}
        self._told: dict[LoadedImage, dict[str, str]] = {}
        """By image: the names of its files as clients are told them."""
        # What is shared only ever grows: the largest is good for everybody.
        largest: dict[str, LoadedImage] = {}
        for image in catalogue.images:
            for name, size in image.sizes.items():
                if size > largest.setdefault(name, image).sizes[name]:
                    largest[name] = image
        identities: dict[str, str] = {}
        for image in catalogue.images:
            names = self._told[image] = {}
            for name in image.files:
                if is_shared(name):
                    self._files[name] = _Described(largest[name], name)
                    names[name] = name
                    continue
                identity = image.identities[name]
                told = name if identities.setdefault(name, identity) == identity else f"image-{identity}/{name}"
                names[name] = told
                self._files.setdefault(told, _Described(image, name))

    def service_of(self, symbol: str) -> LoadedImage | None:
        """The image of the served service that a symbol is, or is a method of; None: it is something else."""
        services = self._catalogue.services
        return services.get(symbol) or services.get(symbol.rpartition(".")[0])

    def by_name(self, name: str) -> Sequence[bytes] | None:
        """A file by the name that clients are told, and behind it all that it imports; None: there is none."""
        return self._with_imports([name]) if name in self._files else None

    def by_symbol(self, symbol: str, first: LoadedImage | None = None) -> Sequence[bytes] | None:
        """The file that declares something, and behind it what it imports; None: none does.

        Of a service that is served from the image that it is served from. With it comes what its operations answer with, which
        its file need not import.

        Args:
            symbol: A full name.
            first: The image to look into before others.
        """
        image = self.service_of(symbol)
        if image is not None:
            names = [self._declaring(image, symbol)]
            service = symbol if symbol in self._catalogue.services else symbol.rpartition(".")[0]
            names += [
                method.response_class.DESCRIPTOR.file.name
                for method in image.methods.values()
                if method.name.partition("/")[0] == service
            ]
            return self._with_imports([self._told[image][name] for name in names if name is not None])
        for each in self._from(first):
            name = self._declaring(each, symbol)
            if name is not None:
                return self._with_imports([self._told[each][name]])
        return None

    def by_extension(self, message: str, number: int, first: LoadedImage | None = None) -> Sequence[bytes] | None:
        """The file that declares an extension of a message, and behind it what it imports; None: none does."""
        for image in self._from(first):
            try:
                extended = image.pool.FindMessageTypeByName(message)
                extension = image.pool.FindExtensionByNumber(extended, number)
            except KeyError:
                continue
            return self.by_symbol(extension.full_name, image)
        return None

    def extension_numbers(self, message: str) -> Sequence[int] | None:
        """The numbers of a message's extensions; None: no image has the message."""
        numbers: set[int] | None = None
        for image in self._catalogue.images:
            try:
                extended = image.pool.FindMessageTypeByName(message)
            except KeyError:
                continue
            numbers = (numbers or set()) | {each.number for each in image.pool.FindAllExtensions(extended)}
        return None if numbers is None else sorted(numbers)

    def _from(self, first: LoadedImage | None) -> Iterator[LoadedImage]:
        # It may be one that was replaced meanwhile.
        if first in self._told and first is not None:
            yield first
        yield from self._catalogue.images

    def _declaring(self, image: LoadedImage, symbol: str) -> str | None:
        try:
            return image.pool.FindFileContainingSymbol(symbol).name
        except KeyError:
            return None

    def _with_imports(self, told: Sequence[str]) -> Sequence[bytes]:
        found: dict[str, bytes] = {}
        waiting = list(reversed(told))
        while waiting:
            name = waiting.pop()
            if name not in found:
                file = self._file(name)
                found[name] = file.SerializeToString()
                waiting.extend(reversed(file.dependency))
        return tuple(found.values())

    def _file(self, told: str) -> FileDescriptorProto:
        image, name = self._files[told]
        file = FileDescriptorProto()
        image.pool.FindFileByName(name).CopyToProto(file)
        names: Mapping[str, str] = self._told[image]
        file.name = told
        file.dependency[:] = [names[each] for each in file.dependency]
        return file
