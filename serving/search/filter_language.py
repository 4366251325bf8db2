"""Filters as a person writes them: `label = "9" and (width >= 20 or not verified = true)`."""

import re

from serving.search.filters import FIELDS, AllOf, AnyOf, Comparison, Filter, Negated, Operator, Value

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<name>[^\W\d][\w.-]*)
    | (?P<quoted>`[^`]+`)
    | (?P<sign><=|>=|!=|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_OPERATORS = {operator.value: operator for operator in Operator}
_WORDS = {"and", "or", "not", "in", "true", "false"}
_DEEPEST = 32  # parentheses; a filter itself says what is too deep


class FilterSyntaxError(ValueError):
    """A text that is no filter; the message says where."""


def parse(text: str) -> Filter:
    """Returns the filter that `text` says; raises FilterSyntaxError.

    `not` binds closest, then `and`, then `or`. Text stands in quotes, booleans are true and false. item_id, width and
    height are the item's own, any other name is an attribute: label = "9", price < 20, color in ("red", "blue"). In
    backticks every name is an attribute: `width`, `net price`.
    """
    parser = _Parser(text)
    try:
        filter_ = parser.either(0)
    except ValueError as error:
        raise FilterSyntaxError(str(error)) from error
    if parser.kind:
        raise parser.expected("and, or, or the end")
    return filter_


class _Parser:
    """kind, token: what comes next; kind is empty at the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self._next()

    def either(self, depth: int) -> Filter:
        parts = [self._both(depth)]
        while self._takes("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def expected(self, what: str) -> FilterSyntaxError:
        found = f"found {self.token}" if self.kind else "it ends"
        return FilterSyntaxError(f"expected {what} at character {self._start + 1}, but {found}.")

    def _both(self, depth: int) -> Filter:
        parts = [self._one(depth)]
        while self._takes("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _one(self, depth: int) -> Filter:
        if depth > _DEEPEST:
            raise FilterSyntaxError(f"at most {_DEEPEST} parentheses and nots may stand in each other.")
        if self._takes("not"):
            return Negated(self._one(depth + 1))
        if self._takes("("):
            inner = self.either(depth + 1)
            self._must_take(")")
            return inner
        if self.kind not in ("name", "quoted") or self.token.lower() in _WORDS:
            raise self.expected("a name, not, or (")
        name, is_field = self.token.strip("`"), self.token in FIELDS
        self._next()
        negated = self._takes("not")
        operator = _OPERATORS.get(self.token.upper()) if self.kind else None
        if operator is None or (negated and operator is not Operator.IN):
            raise self.expected("in" if negated else "=, !=, <, <=, >, >= or in")
        self._next()
        values = self._list() if operator is Operator.IN else (self._value(),)
        comparison = Comparison(name, operator, values, is_field)
        return Negated(comparison) if negated else comparison

    def _list(self) -> tuple[Value, ...]:
        self._must_take("(")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
        self._must_take(")")
        return tuple(values)

    def _value(self) -> Value:
        kind, token = self.kind, self.token
        if kind == "name" and token.lower() not in ("true", "false"):
            raise FilterSyntaxError(f'text stands in quotes: write "{token}" at character {self._start + 1}.')
        if kind not in ("text", "number", "name"):
            raise self.expected('a value such as 20, "red" or true')
        self._next()
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", token[1:-1])
        if kind == "name":
            return token.lower() == "true"
        return float(token) if re.search(r"[.eE]", token) else int(token)

    def _takes(self, token: str) -> bool:
        found = self.kind in ("name", "sign") and self.token.lower() == token
        if found:
            self._next()
        return found

    def _must_take(self, token: str) -> None:
        if not self._takes(token):
            raise self.expected(token)

    def _next(self) -> None:
        match = _TOKEN.match(self._text, self._end)
        rest = self._text[self._end :]
        self._start = self._end + len(rest) - len(rest.lstrip())
        if match is None and rest.strip():
            raise FilterSyntaxError(f"can't read {rest.strip()[:20]!r} at character {self._start + 1}.")
        self.kind = "" if match is None else str(match.lastgroup)
        self.token = "" if match is None else match[match.lastgroup or 0]
        self._end = len(self._text) if match is None else match.end()
