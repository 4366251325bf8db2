"""What a PromQL expression asks for, read without Prometheus: metrics, their labels and the values they must have."""

import dataclasses
import re

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_DURATION = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^}]*)\})?(\s*\()?")
_MATCHER = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")')
_WORDS = {"and", "or", "unless", "bool", "inf", "nan"}


@dataclasses.dataclass(frozen=True)
class Selector:
    """A metric. matchers: (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def values(self) -> list[tuple[str, str]]:
        """Returns the (label, value)s that samples must have for this to find what it is for."""
        found = []
        for label, operator, value in self.matchers:
            if operator == "=":
                found.append((label, value))
            elif operator == "=~" and re.fullmatch(r"[\w|]+", value):
                found += [(label, part) for part in value.split("|")]
        return found


def selectors(expression: str) -> list[Selector]:
    """Returns every metric that is asked for."""
    text = _GROUPING.sub(" ", _DURATION.sub(" ", expression))
    found, at = [], 0
    while match := _SELECTOR.search(text, at):
        name, matchers, call = match.groups()
        at = match.end()
        if (
            call is None
            and name.lower() not in _WORDS
            and not text[: match.start()].rstrip().endswith(tuple("0123456789."))
        ):
            found.append(Selector(name, tuple((a, b, c[1:-1]) for a, b, c in _MATCHER.findall(matchers or ""))))
    return found


def grouping(expression: str) -> set[str]:
    """Returns the labels that results are grouped or joined by."""
    plain = _STRING.sub('""', expression)
    return {label.strip() for _, labels in _GROUPING.findall(plain) for label in labels.split(",") if label.strip()}
