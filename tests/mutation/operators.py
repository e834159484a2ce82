"""The mutants of a source: cosmic-ray's operators, and a few of our own, in places that matter."""

import difflib
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

Position = tuple[tuple[int, int], tuple[int, int]]
# One or two of each sort: an addition that becomes a shift dies of any test.
NAMES = """
    ReplaceBinaryOperator_Add_Sub ReplaceBinaryOperator_Sub_Add ReplaceBinaryOperator_Mul_Div
    ReplaceBinaryOperator_Div_Mul ReplaceBinaryOperator_FloorDiv_Mul ReplaceBinaryOperator_Mod_Add
    ReplaceBinaryOperator_Pow_Mul ReplaceBinaryOperator_BitAnd_BitOr ReplaceBinaryOperator_BitOr_BitAnd
    ReplaceComparisonOperator_Eq_NotEq ReplaceComparisonOperator_NotEq_Eq ReplaceComparisonOperator_Eq_LtE
    ReplaceComparisonOperator_Lt_LtE ReplaceComparisonOperator_LtE_Lt ReplaceComparisonOperator_Gt_GtE
    ReplaceComparisonOperator_GtE_Gt ReplaceComparisonOperator_Is_IsNot ReplaceComparisonOperator_IsNot_Is
    ReplaceUnaryOperator_Delete_USub ReplaceUnaryOperator_Delete_Not ReplaceUnaryOperator_Delete_Invert
    AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd
    ReplaceBreakWithContinue ReplaceContinueWithBreak ExceptionReplacer NumberReplacer ZeroIterationForLoop
"""
SWAPPED = {"min": "max", "any": "all", "argmin": "argmax", "floor": "ceil", "minimum": "maximum", "amin": "amax"}
SWAPPED |= {new: old for old, new in SWAPPED.items()}
# Here nothing that a caller could see is computed.
IDLE = {"assert_stmt", "raise_stmt", "import_name", "import_from", "decorator", "fstring", "tfpdef"}
IDLE_CALLS = re.compile(r"(\w+\.)*_?(log|logger|logging|warnings)\.|(Type(Var|Alias)|NewType|cast|overload)\(")
IDLE_ARGUMENTS = {"strict", "frozen", "slots", "stacklevel", "encoding", "help", "kw_only"}


class OwnOperator(Operator):
    """An operator that has one way to change a node."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        """Yields where the node stands if it can be changed."""
        if self.fits(node):
            yield node.start_pos, node.end_pos

    @classmethod
    def examples(cls) -> tuple[()]:
        """Returns none: the docstrings have them."""
        return ()


class DropStatement(OwnOperator):
    """``flush(file)``, ``total += 1`` and ``row[i] = 0`` become ``pass``."""

    def fits(self, node: Any) -> bool:
        """Says whether this is a call for its effect, or changes something that is there."""
        if getattr(node.parent, "type", "") != "simple_stmt":
            return False
        if node.type == "atom_expr":
            return bool(node.children[-1].get_code().startswith("("))
        if node.type != "expr_stmt" or node.children[1].type == "annassign":
            return False
        left, sign = (part.get_code().strip() for part in node.children[:2])
        return sign != "=" or "[" in left

    def mutate(self, node: Any, index: int) -> Any:
        """Returns ``pass``, as far to the right as the node."""
        return parso.parse(node.get_first_leaf().prefix + "pass")


class DropArgument(OwnOperator):
    """``f(a, b=c)`` becomes ``f(a)``."""

    def fits(self, node: Any) -> bool:
        """Says whether this is an argument with a name."""
        return node.type == "argument" and len(node.children) == 3 and node.children[1].get_code() == "="

    def mutate(self, node: Any, index: int) -> Any:
        """Returns nothing in its place: a repeated ``**{}`` keeps the commas right."""
        return parso.parse(node.get_first_leaf().prefix + "**{}")


class SwapName(OwnOperator):
    """``min`` becomes ``max``, ``any`` becomes ``all``."""

    def fits(self, node: Any) -> bool:
        """Says whether this is a function that has an opposite."""
        following = node.get_next_leaf() if node.type == "name" else None
        return following is not None and node.value in SWAPPED and following.value == "("

    def mutate(self, node: Any, index: int) -> Any:
        """Returns the opposite."""
        return parso.parse(node.prefix + SWAPPED[node.value])


def operators() -> list[Any]:
    """Returns one of each operator."""
    return [get_operator(f"core/{name}")() for name in NAMES.split()] + [DropStatement(), DropArgument(), SwapName()]


def mutants_of(source: str) -> Iterator[tuple[Position, Callable[[], str]]]:
    """Yields where a mutant differs, and what makes its text."""
    nodes = list(ast_nodes(get_ast(source)))
    for operator in operators():
        places = [(node, position) for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (node, position) in enumerate(places):
            if matters(node):
                yield position, partial(mutate_code, source, operator, occurrence)


def matters(node: Any) -> bool:
    """Says whether a change there could change what is computed."""
    while node is not None:
        parent = node.parent
        kind = node.type
        if kind in IDLE or (kind in ("atom_expr", "power") and IDLE_CALLS.match(node.get_code().strip())):
            return False
        if kind == "argument" and getattr(node.children[0], "value", "") in IDLE_ARGUMENTS:
            return False
        if kind == "if_stmt" and node.children[1].get_code().strip() == "TYPE_CHECKING":
            return False
        if parent is not None and parent.type == "annassign" and parent.children[1] is node:
            return False
        if parent is not None and parent.type == "funcdef" and parent.annotation is node:
            return False
        node = parent
    return True


def changed(before: str, after: str) -> str:
    """Returns ``line: before → after`` of two texts that differ in one place."""
    old, new = before.splitlines(), after.splitlines()
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            return f"{a + 1}: {' '.join(map(str.strip, old[a:b]))} → {' '.join(map(str.strip, new[c:d]))}"
    return "no change"
