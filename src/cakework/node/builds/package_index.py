"""How this host reaches its index of Python packages: what pip is told here, for wheels that base
images are made with.

What an index sends is checked against the locked digests, whichever it is. An index or proxy may
want a password: it goes to pip on standard input, and into no file, argument, image or log.
"""

import configparser
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

SETTINGS = ("index-url", "extra-index-url", "proxy", "trusted-host", "timeout", "retries")
SECTIONS = ("global", "download")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
HIDDEN = "****"
_USER_INFO = re.compile(r"://(?P<whole>[^/@\s]+)@")


@dataclass(frozen=True, slots=True)
class PackageIndex:
    """``variables`` for pip's environment; ``cert``, the certificates that it trusts, if told."""

    variables: Mapping[str, str]
    cert: Path | None

    def script(self, cert: str | None) -> bytes:
        """Return shell that sets them; ``cert`` is where pip finds the certificates."""
        variables = {**self.variables, **({"PIP_CERT": cert} if cert else {})}
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        return "".join(lines).encode() or b":\n"

    def hide(self, text: str) -> str:
        """Return ``text`` without what is secret."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text

    def _secrets(self) -> set[str]:
        found: set[str] = set()
        for value in self.variables.values():
            for matched in _USER_INFO.finditer(value):
                whole = matched["whole"]
                found |= {whole, unquote(whole)}
                if password := whole.partition(":")[2]:
                    found |= {password, unquote(password)}
        return found


def package_index(environment: Mapping[str, str] = os.environ) -> PackageIndex:
    """Return what pip is configured with on this host.

    Files and variables are those of https://pip.pypa.io/en/stable/topics/configuration/, later
    ones before earlier; of their settings SETTINGS and ``cert`` count.
    """
    told: dict[str, str] = {}
    for file in _files(environment):
        told |= _read(file)
    for setting in (*SETTINGS, "cert"):
        if value := environment.get(_variable(setting)):
            told[setting] = value
    variables = {_variable(name): told[name] for name in SETTINGS if name in told}
    for name in PROXIES:
        for each in (name, name.upper()):
            if value := environment.get(each):
                variables[each] = value
    cert = told.get("cert") or environment.get("REQUESTS_CA_BUNDLE")
    return PackageIndex(variables, Path(cert) if cert else None)


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    named = environment.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    for folder in reversed(environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
        yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    if home := environment.get("HOME"):
        yield Path(home) / ".pip" / "pip.conf"
        yield Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if named:
        yield Path(named)


def _read(file: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(file, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return {
        name.replace("_", "-"): " ".join(value.split())
        for section in SECTIONS
        if parser.has_section(section)
        for name, value in parser.items(section)
        if value
    }


def _variable(setting: str) -> str:
    return f"PIP_{setting.upper().replace('-', '_')}"
