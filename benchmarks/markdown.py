"""Markdown, for the scripts that put result files into words."""


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Render a table: the first column to the left, figures to the right."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(cells).replace("\n", " ") + " |" for cells in lines)
