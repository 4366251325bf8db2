"""What every section of the config checks its options with."""


class ConfigError(ValueError):
    """An option that is unknown, of the wrong type, or out of range."""


def require(holds: bool, message: str) -> None:
    """Raises ConfigError with `message`, which names the option and its value, unless `holds`."""
    if not holds:
        raise ConfigError(message)


def require_within(name: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError unless `value` is in [low, high]."""
    require(low <= value <= high, f"{name} must be in [{low:g}, {high:g}], got {value:g}.")


def require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of `choices`."""
    require(value in choices, f"{name} must be one of {choices}, got {value!r}.")
