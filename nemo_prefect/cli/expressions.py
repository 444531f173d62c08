"""Python expressions on a command line: literals, comprehensions, conditions, arithmetic, lambdas.

They are parsed and then interpreted here, node by node. Nothing is ever handed to ``eval``: there are no attributes, no
subscripts of objects other than lists, tuples, dicts and strings, and no calls but of the functions in `FUNCTIONS`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

#: Elements that a range or a repetition may have, and bits that a number may have: a typing mistake must not hang.
MAX_SIZE = 1_000_000
#: Rounds of the loops of a comprehension.
MAX_ROUNDS = 100_000


class ExpressionError(ValueError):
    """The text is no expression of the kinds that are allowed here."""


def _range(*args: int) -> range:
    made = range(*args)
    if len(made) > MAX_SIZE:
        raise ExpressionError(f"a range of {len(made)} elements is too long")
    return made


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "range": _range,
    **{f.__name__: f for f in (abs, all, any, bool, dict, enumerate, float, frozenset, int, len, max, min, round)},
    **{f.__name__: f for f in (set, sorted, str, sum, zip, reversed)},
    "list": lambda *items: list(items[0]) if len(items) == 1 and not _scalar(items[0]) else list(items),
    "tuple": lambda *items: tuple(items[0]) if len(items) == 1 and not _scalar(items[0]) else tuple(items),
}


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base).bit_length() * max(exponent, 0) > MAX_SIZE:
        raise ExpressionError("the number is too large")
    return base**exponent


def _times(left: Any, right: Any) -> Any:
    for many, number in ((left, right), (right, left)):
        if isinstance(many, (str, bytes, list, tuple)) and isinstance(number, int) and len(many) * number > MAX_SIZE:
            raise ExpressionError("the repetition is too long")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_SIZE:
        raise ExpressionError("the number is too large")
    return left * right


def _shift(left: Any, right: Any) -> Any:
    if isinstance(right, int) and right > MAX_SIZE:
        raise ExpressionError("the number is too large")
    return left << right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, (str, bytes)):
        raise ExpressionError("formatting with % is not allowed here")
    return left % right


BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _times,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: _modulo,
    ast.Pow: _power,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
    ast.LShift: _shift,
    ast.RShift: operator.rshift,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def evaluate(text: str) -> Any:
    """The value of an expression.

    Raises:
        ExpressionError: it is none, uses what is not allowed, or cannot be computed.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return Interpreter({}).value(tree)
    except ExpressionError:
        raise
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"not a Python expression: {getattr(error, 'msg', None) or error}") from error
    except (ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise ExpressionError(str(error) or type(error).__name__) from error


class Interpreter:
    """Computes the value of a parsed expression, given the values of names."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self.names = names

    def value(self, node: ast.expr) -> Any:
        """The value of one node.

        Raises:
            ExpressionError: the node is not of the kinds that are allowed.
        """
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise ExpressionError(f"{_what(node)} is not allowed here")
        return method(node)

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.names[node.id]
        if node.id in FUNCTIONS:
            return FUNCTIONS[node.id]
        raise ExpressionError(f"{node.id!r} is no name that is known here")

    def _list(self, node: ast.List) -> list[Any]:
        return self._members(node.elts)

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._members(node.elts))

    def _set(self, node: ast.Set) -> set[Any]:
        return set(self._members(node.elts))

    def _members(self, nodes: list[ast.expr]) -> list[Any]:
        members: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                members.extend(self.value(node.value))
            else:
                members.append(self.value(node))
        return members

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                made.update(self.value(value))
            else:
                made[self.value(key)] = self.value(value)
        return made

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        return UNARY[type(node.op)](self.value(node.operand))

    def _binop(self, node: ast.BinOp) -> Any:
        if type(node.op) not in BINARY:
            raise ExpressionError(f"{_what(node.op)} is not allowed here")
        return BINARY[type(node.op)](self.value(node.left), self.value(node.right))

    def _boolop(self, node: ast.BoolOp) -> Any:
        stop = isinstance(node.op, ast.Or)
        result = None
        for each in node.values:
            result = self.value(each)
            if bool(result) is stop:
                break
        return result

    def _compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node)
            if not COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _subscript(self, node: ast.Subscript) -> Any:
        of = self.value(node.value)
        if not isinstance(of, (list, tuple, dict, str, range)):
            raise ExpressionError(f"a {type(of).__name__} has no subscripts here")
        if isinstance(node.slice, ast.Slice):
            parts = (node.slice.lower, node.slice.upper, node.slice.step)
            return of[slice(*(None if p is None else self.value(p) for p in parts))]
        return of[self.value(node.slice)]

    def _call(self, node: ast.Call) -> Any:
        function = self.value(node.func) if isinstance(node.func, ast.Name) else None
        if function is None or not (function in FUNCTIONS.values() or isinstance(function, Lambda)):
            raise ExpressionError(f"calling {ast.unparse(node.func)} is not allowed here")
        named = {k.arg: self.value(k.value) for k in node.keywords if k.arg is not None}
        return function(*self._members(node.args), **named)

    def _listcomp(self, node: ast.ListComp) -> list[Any]:
        return [inner.value(node.elt) for inner in self._scopes(node.generators)]

    def _setcomp(self, node: ast.SetComp) -> set[Any]:
        return {inner.value(node.elt) for inner in self._scopes(node.generators)}

    def _generatorexp(self, node: ast.GeneratorExp) -> list[Any]:
        return [inner.value(node.elt) for inner in self._scopes(node.generators)]

    def _dictcomp(self, node: ast.DictComp) -> dict[Any, Any]:
        return {inner.value(node.key): inner.value(node.value) for inner in self._scopes(node.generators)}

    def _scopes(self, generators: list[ast.comprehension]) -> list[Interpreter]:
        """One interpreter for each round of the loops, with the loops' names."""
        scopes = [self]
        for generator in generators:
            rounds: list[Interpreter] = []
            for scope in scopes:
                for item in scope.value(generator.iter):
                    inner = Interpreter({**scope.names, **_unpack(generator.target, item)})
                    if all(inner.value(test) for test in generator.ifs):
                        rounds.append(inner)
                    if len(rounds) > MAX_ROUNDS:
                        raise ExpressionError("the comprehension is too long")
            scopes = rounds
        return scopes

    def _lambda(self, node: ast.Lambda) -> Lambda:
        return Lambda(node, self)


def _unpack(target: ast.expr, item: Any) -> dict[str, Any]:
    if isinstance(target, ast.Name):
        return {target.id: item}
    if isinstance(target, (ast.Tuple, ast.List)):
        items = list(item)
        if len(items) != len(target.elts):
            raise ExpressionError(f"{len(items)} values for {len(target.elts)} names")
        return {k: v for each, value in zip(target.elts, items, strict=True) for k, v in _unpack(each, value).items()}
    raise ExpressionError(f"{_what(target)} is not allowed here")


class Lambda:
    """A lambda of a command line: called, it is interpreted by the same rules. It works in this process only, since a job
    could not import it."""

    def __init__(self, node: ast.Lambda, scope: Interpreter) -> None:
        arguments = node.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
            raise ExpressionError("a lambda takes plain arguments here")
        self._names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
        defaults = [scope.value(d) for d in arguments.defaults]
        self._defaults = dict(zip(self._names[len(self._names) - len(defaults) :], defaults, strict=True))
        self._scope, self._node = scope, node
        _check(node.body, {*scope.names, *self._names})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) > len(self._names) or set(kwargs) - set(self._names):
            raise TypeError(f"{self!r} takes the arguments {', '.join(self._names)}")
        given = {**self._defaults, **dict(zip(self._names, args, strict=False)), **kwargs}
        if missing := [name for name in self._names if name not in given]:
            raise TypeError(f"{self!r} needs {', '.join(missing)}")
        return Interpreter({**self._scope.names, **given}).value(self._node.body)

    def __repr__(self) -> str:
        return ast.unparse(self._node)


def _check(body: ast.expr, names: set[str]) -> None:
    """Refuse now what the interpreter would refuse when the lambda is called."""
    for node in ast.walk(body):
        if isinstance(node, ast.comprehension):
            names |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
        if isinstance(node, ast.Lambda):
            names |= {a.arg for a in (*node.args.posonlyargs, *node.args.args)}
    for node in ast.walk(body):
        if isinstance(node, ast.expr) and not isinstance(node, (ast.Starred, ast.Slice)):
            if not hasattr(Interpreter, f"_{type(node).__name__.lower()}"):
                raise ExpressionError(f"{_what(node)} is not allowed here")
        if isinstance(node, ast.Name) and node.id not in names and node.id not in FUNCTIONS:
            raise ExpressionError(f"{node.id!r} is no name that is known here")


def _what(node: ast.AST) -> str:
    words = {
        "Attribute": "an attribute",
        "Await": "await",
        "JoinedStr": "an f-string",
        "NamedExpr": "an assignment",
        "Starred": "a star",
    }
    return words.get(type(node).__name__, type(node).__name__)
