"""Registries: which ones the operator named, and what buildah is told of them."""

from dataclasses import dataclass

DEFAULT_REGISTRY = "docker.io"


@dataclass(frozen=True, slots=True)
class Registries:
    """``mirrors`` maps a registry, or a prefix of it, to where it is read from instead first."""

    mirrors: tuple[tuple[str, str], ...] = ()
    insecure: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, mirrors: list[str], insecure: list[str]) -> "Registries":
        """Read the settings ``registry_mirrors`` and ``insecure_registries``.

        Raises:
            ValueError: a mirror is not of the form ``registry=mirror``.
        """
        pairs: list[tuple[str, str]] = []
        for mirror in mirrors:
            source, sign, location = mirror.partition("=")
            if not (source and sign and location):
                raise ValueError(f"registry_mirrors: {mirror!r} is not <registry>=<mirror>")
            pairs.append((source.strip("/"), location.strip("/")))
        return cls(tuple(pairs), frozenset(insecure))

    def addresses(self) -> list[str]:
        """Return ``host[:port]`` of every registry and mirror that is named."""
        return [*(registry_of(place) for _, place in self.mirrors), *sorted(self.insecure)]

    def configuration(self) -> str:
        """Return what containers-registries.conf(5) describes, version 2."""
        lines = [
            f'unqualified-search-registries = ["{DEFAULT_REGISTRY}"]',
            'short-name-mode = "permissive"',
        ]
        for source in sorted({source for source, _ in self.mirrors} | self.insecure):
            lines += ["[[registry]]", f'prefix = "{source}"', f'location = "{source}"']
            lines += _insecure(source in self.insecure)
            for location in (place for name, place in self.mirrors if name == source):
                lines += ["[[registry.mirror]]", f'location = "{location}"']
                lines += _insecure(registry_of(location) in self.insecure)
        return "\n".join(lines) + "\n"


def registry_of(name: str) -> str:
    """Return the registry, ``host[:port]``, of a qualified name."""
    return name.partition("/")[0]


def qualified(reference: str) -> str:
    """Return ``reference`` with its registry: ``python:3`` is ``docker.io/library/python:3``."""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return reference
    return f"{DEFAULT_REGISTRY}/{reference if slash else f'library/{reference}'}"


def _insecure(insecure: bool) -> list[str]:
    return ["insecure = true"] if insecure else []
