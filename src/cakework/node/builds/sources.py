"""The host's apt sources, those of Debian's archive alone: what base images are made from.

Images are of other releases than the host, too. Where it has no entry for one, its own entries
are taken with that release's suites: mirrors have all releases that are supported.
"""

import re
from collections.abc import Iterator
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PARTS = ("", "-updates", "-security")
COMPONENTS = frozenset({"main", "contrib", "non-free", "non-free-firmware"})
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)$")


class SourcesError(Exception):
    """The host has no apt source of Debian's archive for its release."""


def debian_sources(apt: Path, codename: str, of_host: str) -> str:
    """Return the entries of ``apt`` (/etc/apt) for Debian ``codename``, in deb822 form.

    Taken are binary packages of the release, its updates and its security updates; those of the
    host's release, ``of_host``, stand in for them where there are none. Every entry is bound to
    the key ring of Debian's archive: one of somebody else's fails there.

    Raises:
        SourcesError: there is none.
    """
    found = [entry for entry in _entries(apt) if _is_debians(entry)]
    named = {suite for entry in found for suite in entry["Suites"].split()}
    suites: dict[str, str] = {}
    for part in PARTS:
        release = codename if f"{codename}{part}" in named else of_host
        suites[f"{release}{part}"] = f"{codename}{part}"
    stanzas = [
        _stanza(entry["URIs"], taken, entry["Components"])
        for entry in found
        if (taken := _taken(entry, suites))
    ]
    if not stanzas:
        raise SourcesError(f"no apt source on this host is Debian's archive of {of_host}")
    return "\n".join(dict.fromkeys(stanzas))


def _is_debians(entry: dict[str, str]) -> bool:
    return (
        entry.get("Enabled", "yes").lower() not in ("no", "false")
        and Path(entry.get("Signed-By", KEYRING)).name.startswith("debian-archive")
        and set(entry["Components"].split()) <= COMPONENTS
    )


def _taken(entry: dict[str, str], suites: dict[str, str]) -> list[str]:
    return [suites[suite] for suite in entry["Suites"].split() if suite in suites]


def _stanza(uris: str, suites: list[str], components: str) -> str:
    return (
        f"Types: deb\nURIs: {uris}\nSuites: {' '.join(suites)}\n"
        f"Components: {components}\nSigned-By: {KEYRING}\n"
    )


def _entries(apt: Path) -> Iterator[dict[str, str]]:
    folder = apt / "sources.list.d"
    for file in (apt / "sources.list", *sorted(folder.glob("*.list"))):
        if file.is_file():
            yield from _one_line_entries(file.read_text())
    for file in sorted(folder.glob("*.sources")):
        yield from _deb822_entries(file.read_text())


def _one_line_entries(text: str) -> Iterator[dict[str, str]]:
    for line in text.splitlines():
        matched = _ONE_LINE.match(line.partition("#")[0].strip())
        if not matched:
            continue
        suite, *components = matched["rest"].split()
        options = dict(option.split("=", 1) for option in (matched["options"] or "").split())
        entry = {"URIs": matched["uri"], "Suites": suite, "Components": " ".join(components)}
        if "signed-by" in options:
            entry["Signed-By"] = options["signed-by"]
        yield entry


def _deb822_entries(text: str) -> Iterator[dict[str, str]]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        folded = re.sub(r"\n[ \t]+", " ", stanza)
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", folded, re.MULTILINE))
        if "deb" in fields.get("Types", "").split() and {"URIs", "Suites", "Components"} <= set(
            fields
        ):
            yield fields
