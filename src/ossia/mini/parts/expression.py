"""Evaluates a small subset of Python: integers, lists of them, and a few functions.

Input: code that a model writes for its python tool. Output: what it prints, or the last value.
ValueError for anything else (files, loops), and for results that would grow too large. `Cells` also has variables.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

LARGEST_BITS = 4096
LONGEST_LIST = 10_000
LONGEST_CODE = 2000
MOST_VARIABLES = 100


def compute(code: str) -> str:
    """The output of the code. Raises ValueError for code outside the subset."""
    body = _parsed(code)
    if len(body) != 1 or not isinstance(body[0], ast.Expr):
        raise ValueError("only one expression can be computed")
    node = body[0].value
    match node:
        case ast.Call(func=ast.Name("print"), args=[inner], keywords=[]):
            node = inner
    try:
        return str(_value(node))
    except (ArithmeticError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


class Cells:
    """Runs cells one after another. Variables stay: `x = 17 * 4` in one cell, `print(x + 1)` in the next."""

    def __init__(self) -> None:
        self._variables: dict[str, Any] = {}

    def run(self, code: str) -> str:
        """What a cell prints, and its last value; "" for none. Raises ValueError for code outside the subset.

        A cell that fails sets no variables.
        """
        variables, printed, last = dict(self._variables), list[str](), ""
        try:
            for statement in _parsed(code):
                last = ""
                match statement:
                    case ast.Assign(targets=[ast.Name(name)], value=value):
                        variables[name] = _value(_Substitute(variables).visit(value))
                    case ast.Expr(ast.Call(func=ast.Name("print"), args=[inner], keywords=[])):
                        printed.append(f"{_value(_Substitute(variables).visit(inner))}\n")
                    case ast.Expr(inner):
                        last = f"{_value(_Substitute(variables).visit(inner))}\n"
                    case _:
                        raise ValueError(f"cannot run {ast.unparse(statement)}")
        except (ArithmeticError, TypeError, IndexError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if len(variables) > MOST_VARIABLES:
            raise ValueError(f"there are more than {MOST_VARIABLES} variables")
        self._variables = variables
        return "".join(printed) + last


class _Substitute(ast.NodeTransformer):
    """Puts the values of variables in the place of their names."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _literal(self._variables[node.id]) if node.id in self._variables else node


def _literal(value: Any) -> ast.expr:
    if isinstance(value, list):
        return ast.List([_literal(each) for each in value], ast.Load())
    return ast.UnaryOp(ast.USub(), ast.Constant(-value)) if value < 0 else ast.Constant(value)


def _parsed(code: str) -> list[ast.stmt]:
    """The statements of the code. Raises ValueError if it is too long or no Python."""
    if len(code) > LONGEST_CODE:
        raise ValueError("the code is too long")
    try:
        return ast.parse(code.strip(), mode="exec").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"SyntaxError: {error}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(int() as number):
            return _kept(number)
        case ast.UnaryOp(ast.USub(), operand):
            return -_number(operand)
        case ast.BinOp(left, ast.Pow(), right):
            return _power(_number(left), _number(right))
        case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
            return _kept(_OPERATORS[type(op)](_number(left), _number(right)))
        case ast.List(items) | ast.Tuple(items):
            return [_value(each) for each in items]
        case ast.Call(func=ast.Name(name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _kept(_FUNCTIONS[name](*(_value(each) for each in arguments)))
    raise ValueError(f"cannot compute {ast.unparse(node)}")


def _number(node: ast.expr) -> int:
    value = _value(node)
    if isinstance(value, int):
        return value
    raise ValueError(f"{ast.unparse(node)} is no whole number")


def _power(base: int, exponent: int) -> int:
    if exponent < 0 or base.bit_length() * exponent > LARGEST_BITS:
        raise ValueError("a power that is too large, or no whole number")
    return base**exponent


def _range(*bounds: int) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > LONGEST_LIST:
        raise ValueError("a list that is too long")
    return list(numbers)


def _factorial(number: int) -> int:
    if number > 300:
        raise ValueError("a factorial that is too large")
    return math.factorial(number)


def _kept(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        raise ValueError("a number that is too large")
    return value


_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
    }
)
_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "sum": sum, "max": max, "min": min, "len": len, "abs": abs, "sorted": sorted, "list": list,
        "range": _range, "factorial": _factorial,
    }
)  # fmt: skip
