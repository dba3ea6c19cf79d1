"""Formulas as MathML, written at build time: no script, no font, no network.

latex2mathml shows what it does not understand as it stands. Here that is a warning with
its place, so `make docs` fails: an unknown command, a missing argument, a stray brace.
"""

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

ARGUMENTS = {
    **dict.fromkeys(("mfrac", "mroot", "msub", "msup", "munder", "mover"), 2),
    **dict.fromkeys(("msubsup", "munderover"), 3),
}

# What the converter does not know, in terms of what it knows.
SYNONYMS = (
    (r"\\(begin|end)\{(?:aligned|split)\}", r"\\\1{align*}"),
    (r"\\operatorname\*?\{arg\\,(max|min)\}", r"\\operatorname{arg \1}"),
    (r"\\arg\\(max|min)(?![A-Za-z])", r"\\operatorname{arg \1}"),
    (r"\\operatorname\*", r"\\operatorname"),
)


def to_mathml(latex: str, display: str) -> str:
    """A formula as MathML; ValueError says what is wrong with it."""
    for other, known in SYNONYMS:
        latex = re.sub(other, known, latex)
    try:
        mathml = convert(latex, display=display)
        root = ElementTree.fromstring(mathml)
    except Exception as error:  # it has a class of its own for every mistake
        raise ValueError(str(error) or type(error).__name__) from error
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        text = element.text or ""
        if tag in ("mi", "mo") and re.match(r"\\[A-Za-z]", text):
            raise ValueError(f"latex2mathml does not know {text}")
        if tag == "mi" and text in ("{", "}", "&"):
            raise ValueError(f"a stray {text}")
        if tag in ARGUMENTS and len(element) != ARGUMENTS[tag]:
            raise ValueError(
                f"{tag} has {len(element)} of its {ARGUMENTS[tag]} arguments"
            )
    return mathml


def writer(display: str) -> Callable[[Any, Any], None]:
    """The visitor that puts formulas, "inline" or as a "block", into a page."""

    def visit(self: Any, node: Any) -> None:
        try:
            self.body.append(to_mathml(node.astext(), display))
        except ValueError as error:
            logger.warning("Formula %r: %s", node.astext(), error, location=node)
        raise nodes.SkipNode

    return visit


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer under the name "mathml"."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(writer("inline"), None),
        block_renderers=(writer("block"), None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
