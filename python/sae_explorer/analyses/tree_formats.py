"""A definition tree in other people's formats, and drawn in a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.text import Text
from rich.tree import Tree as RichTree

from sae_explorer.text import join_tokens, visible

if TYPE_CHECKING:
    import networkx as nx

    from sae_explorer.analyses.definition_tree import DefinitionTree


def newick(tree: DefinitionTree) -> str:
    """Return the tree in Newick format, labels quoted, branch lengths ``-log p``.

    The root, which is not an answer, is named ``prompt``.
    """
    # Iterative, since a deep tree would exhaust Python's stack.
    parts: list[str] = []
    stack: list[tuple[int, int]] = [(0, 0)]
    while stack:
        row, step = stack.pop()
        children = tree.children[row]
        if step < len(children):
            parts.append("(" if step == 0 else ",")
            stack += [(row, step + 1), (children[step], 0)]
            continue
        if children:
            parts.append(")")
        name = "prompt" if row == 0 else visible(tree.texts[int(tree.token_id[row])])
        length = max(0.0, -math.log(max(float(tree.probability[row]), 5e-324)))
        parts.append(f"'{name.replace(chr(39), chr(39) * 2)}':{length:.6g}")
    return "".join(parts) + ";\n"


def dot(tree: DefinitionTree) -> str:
    """Return the tree in Graphviz' DOT language."""
    lines = [
        "digraph definition_tree {",
        "  rankdir=LR;",
        '  node [shape=plaintext, fontname="Helvetica"];',
        "  edge [arrowhead=none];",
        f"  0 [label={_dot_string(tree.request.label)}];",
    ]
    widths = line_widths(tree)
    for row in range(1, len(tree)):
        token = visible(tree.texts[int(tree.token_id[row])])
        probability = float(tree.cumulative_probability[row])
        tip = f"p={float(tree.probability[row]):.4g} P={probability:.4g}"
        lines.append(f"  {row} [label={_dot_string(token)}, tooltip={_dot_string(tip)}];")
        lines.append(f"  {int(tree.parent[row])} -> {row} [penwidth={widths[row] / 4:.2f}];")
    return "\n".join([*lines, "}", ""])


def line_widths(tree: DefinitionTree) -> list[float]:
    """Return the width of the line to each node: ``1 + 32*x^2.5``.

    ``x`` is the logarithm of the cumulative probability, scaled to 0-1 over the tree. From the
    definition-tree notebook for Gemma-2B (M. Watkins, 2024).
    """
    logs = [math.log(p) for p in tree.cumulative_probability.tolist()]
    low, high = min(logs), max(logs)
    span = (high - low) or 1.0
    return [1 + 32 * ((value - low) / span) ** 2.5 for value in logs]


def networkx_graph(tree: DefinitionTree) -> nx.DiGraph[int]:
    """Return the tree as a directed graph from parents to children."""
    import networkx as nx

    graph: nx.DiGraph[int] = nx.DiGraph()
    for row, attributes in enumerate(tree.to_frame().to_dict("records")):
        graph.add_node(row, **{str(name): value for name, value in attributes.items()})
    graph.add_edges_from((int(tree.parent[row]), row) for row in range(1, len(tree)))
    return graph


def rich_tree(tree: DefinitionTree, limit: int = 40) -> RichTree:
    """Return the most probable nodes as a tree for the terminal; chains are joined to one line.

    Parameters
    ----------
    tree
        The tree.
    limit
        How many nodes to draw.
    """
    drawn = min(limit, len(tree))
    children = [[c for c in rows if c < drawn] for rows in tree.children[:drawn]]
    sae = tree.provenance.sae.get("id")
    label = tree.request.label + (f" of {sae}" if sae else "")
    nodes = f"{len(tree):,} node{'' if len(tree) == 1 else 's'}"
    head = f"[bold]{escape(label)}[/]\n[dim]{nodes}"
    head += f", {tree.status}, covers {tree.covered_probability:.1%}[/]"
    root = RichTree(head, guide_style="dim")

    def chains(row: int) -> list[list[int]]:
        """Return the branches below a node, each as far as it does not fork, least probable first."""
        found = []
        for child in children[row]:
            chain = [child]
            while len(children[chain[-1]]) == 1:
                chain.append(children[chain[-1]][0])
            found.append(chain)
        return sorted(found, key=lambda chain: -chain[-1])  # rows go by falling probability

    stack = [(root, chain) for chain in chains(0)]
    while stack:
        branch, chain = stack.pop()
        last = chain[-1]
        probability = float(tree.cumulative_probability[last])
        line = Text()
        # The end of a text is no part of an answer, so it is not spelled out.
        said = [int(tree.token_id[r]) for r in chain if int(tree.token_id[r]) not in tree.end_ids]
        text = join_tokens(tree.texts[token_id] for token_id in said)
        line.append(visible(text.lstrip() or text) or "(end)")
        if len(tree.children[last]) > len(children[last]):
            line.append(" …", style="dim")
        line.append(f"  {percent(probability)}", style="cyan")
        if tree.lift is not None:
            line.append(f"  lift {tree.lift[last]:+.1f}", style="magenta")
        grown = branch.add(line)
        stack += [(grown, below) for below in chains(last)]
    hidden = len(tree) - drawn
    if hidden > 0:
        root.add(Text(f"… and {hidden:,} less probable nodes", style="dim"))
    return root


def answers(tree: DefinitionTree, limit: int = 5) -> Text:
    """Return the most probable answers as one paragraph."""
    found = tree.definitions(limit)
    if not found:
        return Text(f"No answer is as probable as the cutoff, {tree.request.cutoff:g}: lower it.\n")
    listed = ", ".join(f"{d.text} ({percent(d.probability)})" for d in found)
    said = f"It would be defined as: {visible(listed)}\n"
    if tree.lift is not None:
        lifted = ", ".join(f"{d.text} ({d.lift:+.1f})" for d in tree.definitions(limit, by="lift"))
        said += f"By lift: {visible(lifted)}\n"
    return Text(said)


def percent(probability: float) -> str:
    """Return a probability as short as a column needs it: ``12.3 %``, ``0.0031 %``, ``<0.0001 %``."""
    value = 100 * probability
    if value >= 10:
        return f"{value:.1f} %"
    if value >= 0.1:
        return f"{value:.2f} %"
    if value >= 0.001:
        return f"{value:#.2g} %"
    if value >= 0.0001:
        return f"{value:.4f} %"
    return "<0.0001 %" if value > 0 else "0 %"


def _dot_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
