"""The identity of a stored result: what it depends on, in short texts that fit a JSON file."""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_DIGEST = re.compile(r'"[0-9a-f]{32}([0-9a-f]{32})?"')
_LONGEST = 60  # characters of a value that a message shows


@cache
def package_versions() -> dict[str, str]:
    """The versions of solset, its numerical packages, Python and the system."""
    versions = {name: _installed(name) for name in ("solset", "torch", "numpy", "scipy")}
    return versions | {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "not installed"


@dataclass(frozen=True)
class Identity:
    """Everything that a stored result depends on.

    Attributes:
        settings: Settings and digests of weights, data and loss by name, in the types of JSON. A stored
            result is used only where all of them are the same.
        versions: Versions of the packages by name. Where they differ a warning says so.
    """

    settings: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())

    def differences(self, stored: "Identity") -> list[str]:
        """The settings in which a stored result differs from this one, by name.

        Args:
            stored: The identity of the stored result.

        Example:
            >>> Identity({"tol": 0.1, "seed": 0}).differences(Identity({"tol": 0.2, "seed": 0}))
            ['tol (now 0.1, was 0.2)']
        """
        return _differences(self.settings, stored.settings)

    def other_versions(self, stored: "Identity") -> list[str]:
        """The packages whose versions differ from those of a stored result, by name.

        Args:
            stored: The identity of the stored result.
        """
        return _differences(self.versions, stored.versions)


def _differences(now: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    texts = [(name, _text(now, name), _text(stored, name)) for name in sorted({*now, *stored})]
    return [_difference(*names_and_values) for names_and_values in texts if len({*names_and_values[1:]}) == 2]


def _difference(name: str, now: str, stored: str) -> str:
    """The name, with both values where they say something to a reader."""
    is_plain = all(len(text) <= _LONGEST and not _DIGEST.search(text) for text in (now, stored))
    return f"{name} (now {now}, was {stored})" if is_plain else name


def _text(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], sort_keys=True) if name in values else "absent"
