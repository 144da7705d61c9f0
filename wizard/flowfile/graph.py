"""A flow as a picture in text: an indented tree for a terminal, or Graphviz DOT."""

from __future__ import annotations

from wizard.core.flow import Flow, FlowBook


def tree(flow: Flow, book: FlowBook) -> str:
    """The flow as an indented tree; a node seen before is named, not drawn again."""
    lines = [f"{flow.id}: {flow.title}"]
    seen: set[str] = set()

    def visit(name: str, depth: int, label: str) -> None:
        node = flow.nodes[name]
        pad = "  " * depth
        arrow = f"{pad}{label} -> " if label else pad
        if node.kind == "question":
            again = name in seen
            lines.append(f"{arrow}{name}: {node.ask}" + (" (see above)" if again else ""))
            if again:
                return
            seen.add(name)
            for branch in node.branches:
                visit(branch.to, depth + 1, branch.label)
        elif node.kind == "cause":
            cause = book.causes[node.cause or ""]
            lines.append(f"{arrow}CAUSE {cause.id} ({', '.join(cause.remedies) or 'no remedy'})")
        elif node.kind == "flow":
            lines.append(f"{arrow}FLOW {node.flow}")
        else:
            lines.append(f"{arrow}END {node.end}")

    visit(flow.start, 1, "")
    return "\n".join(lines)


def dot(book: FlowBook) -> str:
    """All flows as one Graphviz digraph."""
    lines = ["digraph flows {", "  rankdir=LR; node [shape=box];"]
    for flow in book.ordered_flows():
        for node in flow.nodes.values():
            here = f"{flow.id}.{node.id}"
            text = node.ask or (f"cause: {node.cause}" if node.cause else node.end or f"flow: {node.flow}")
            lines.append(f'  "{here}" [label="{_quoted(text)}"];')
            for branch in node.branches:
                lines.append(f'  "{here}" -> "{flow.id}.{branch.to}" [label="{_quoted(branch.label)}"];')
            if node.flow and node.flow in book.flows:
                lines.append(f'  "{here}" -> "{node.flow}.{book.flows[node.flow].start}";')
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
