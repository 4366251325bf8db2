"""What every option must be: of its type, and within its range. The error says which, the limit and the value."""

import dataclasses
import ipaddress
from typing import Any


class ConfigError(ValueError):
    """An option that doesn't exist, or a value that can't be."""


def check_types(options: Any, prefix: str = "") -> None:
    """Raises ConfigError where a field of a dataclass holds a value of another type. prefix: of its name."""
    # YAML reads 1 as an int, which is a fine float; and a bool is an int in Python, but not a fine one.
    wanted: dict[Any, tuple[type, ...]] = {
        float: (float, int),
        str | None: (str, type(None)),
        int | None: (int, type(None)),
        list[str]: (list,),
    }
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        kind: Any = field.type
        types = wanted.get(kind, (kind,))
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ConfigError(
                f"{prefix}{field.name} must be {getattr(field.type, '__name__', field.type)}, got {value!r}."
            )


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raises ConfigError unless least <= value <= most."""
    if not least <= value <= most:
        raise ConfigError(f"{name} must be in [{least}, {most}], got {value}.")


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can connect to an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
