"""The options of a stage as text, read off its source: `blm stage2 --help` answers without importing PyTorch."""

import ast
import importlib.util
import textwrap
from pathlib import Path

ROOT_HELP = "where runs live: a folder that all nodes see, or a store like s3://BUCKET/PREFIX (default: runs)"


def options_of(stage: str) -> str:
    """One paragraph an option of the stage's configuration class: name, type, default, and the docstring below it."""
    spec = importlib.util.find_spec(f"{__package__}.{stage}")
    if spec is None or spec.origin is None:
        return ""
    name = f"{stage.capitalize()}Config"
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return "\n".join(
                _option(stage, field, after)
                for field, after in zip(node.body, [*node.body[1:], None], strict=True)
                if isinstance(field, ast.AnnAssign)
            )
    return ""


def _option(stage: str, field: ast.AnnAssign, after: ast.stmt | None) -> str:
    """One option; its docstring is the string expression that follows the field."""
    default = f" = {ast.unparse(field.value)}" if field.value is not None else ""
    head = f"  {stage}.{ast.unparse(field.target)}: {ast.unparse(field.annotation)}{default}"
    if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
        return head
    text = " ".join(str(after.value.value).split())
    return head + "\n" + textwrap.fill(text, 96, initial_indent="      ", subsequent_indent="      ")
