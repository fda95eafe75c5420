"""What the phases of a study's arms are, cost and score: the chain as a drawing, a table by phase, and each phase on each test set."""
import dataclasses
from typing import Any

from sleepnet.config import RunConfig
from sleepnet.study import outcomes as results, resolve
from sleepnet.study.chains import home
from sleepnet.study.outcomes import Outcome
from sleepnet.study.report.tables import NOTHING, Table, number
from sleepnet.study.spec import Arm, StudySpec


@dataclasses.dataclass
class Node:
    """A phase, once for all arms that go through it; an arm without phases is one of its own.

    Attributes:
      name: of the phase; "" without phases.
      config: the run.
      flops: of it alone.
      past: FLOPs of what it starts from.
      home: its folder among the study's phases; "" without phases.
      arms: that go through it.
      ends: those of them that end here.
      after: what starts from it.
    """

    name: str
    config: RunConfig
    flops: float
    past: float
    home: str
    arms: list[Arm] = dataclasses.field(default_factory=list)
    ends: list[Arm] = dataclasses.field(default_factory=list)
    after: "dict[str, Node]" = dataclasses.field(default_factory=dict)

    def outcomes(self, found: list[Outcome], inner: list[Outcome]) -> list[Outcome]:
        """Of all seeds: those of an arm that ends here, else those of the phase."""
        return next(filter(None, [results.of_arm(found, arm.name) for arm in self.ends]), None) or results.of_arm(inner, self.home)


def tree(spec: StudySpec) -> list[Node]:
    """What the arms begin with, and what follows on it."""
    roots: dict[str, Node] = {}
    for name, chain in resolve.chains(spec).items():
        arm, level, past = spec.arm(name), roots, 0.0
        for k, config in enumerate(chain, 1):
            place = home(chain[:k]) if arm.phases else name
            if place not in level:
                level[place] = Node(config.phase if arm.phases else "", config, resolve.train_flops(config), past, place if arm.phases else "")
            node = level[place]
            node.arms.append(arm)
            level, past = node.after, past + node.flops
        node.ends.append(arm)
    return list(roots.values())


def walk(nodes: list[Node]) -> list[Node]:
    """Each behind what it starts from."""
    return [one for node in nodes for one in (node, *walk(list(node.after.values())))]


def drawing(spec: StudySpec) -> str:
    """The chains as text, a line a phase, what follows indented under it; "" where no arm has phases."""
    if not any(arm.phases for arm in spec.arms):
        return ""
    lines: list[str] = []

    def draw(nodes: list[Node], indent: str, deep: bool) -> None:
        for i, node in enumerate(nodes, 1):
            branch, below = ("└── ", "    ") if i == len(nodes) else ("├── ", "│   ")
            start = f" from {node.config.start}" if not deep and node.config.start else ""
            cost = f"{node.config.train.steps:,} steps, {number(node.flops)} FLOPs"
            ends = "".join(f" → {arm.name}" for arm in node.ends)
            lines.append(f"{indent}{branch if deep else ''}{node.name or 'one run'}{start} ({cost}){ends}")
            draw(list(node.after.values()), indent + (below if deep else ""), True)

    draw(tree(spec), "", False)
    return "\n".join(lines)


def tables(spec: StudySpec, found: list[Outcome], inner: list[Outcome]) -> list[Table]:
    """By phase, where an arm has any; phase × test set, where there are test sets."""
    nodes = walk(tree(spec)) if spec.tests or any(arm.phases for arm in spec.arms) else []
    made = []
    if any(node.name for node in nodes):
        made.append(_by_phase(nodes, found, inner))
    if spec.tests:
        made += _matrices(spec, nodes, found, inner)
    return made


def _by_phase(nodes: list[Node], found: list[Outcome], inner: list[Outcome]) -> Table:
    rows = []
    for node in nodes:
        runs = node.outcomes(found, inner)
        score = results.score(runs, runs[0].passes) if runs else None
        seconds = [run.result["seconds"] for run in runs if run.result.get("seconds") is not None]
        rows.append((
            _named(node), ", ".join(arm.name for arm in node.arms), number(node.config.train.steps), number(resolve.tokens(node.config)), number(node.flops),
            number(node.past + node.flops), number(sum(seconds) / len(seconds)) if seconds else NOTHING, str(len(runs)), str(score) if score else NOTHING,
        ))
    headers = ("phase", "arms", "steps", "training tokens", "training FLOPs", "FLOPs with the past", "seconds", "seeds", "exact accuracy")
    return Table("Phases", headers, rows, (
        "A phase that several arms go through was trained once and counts in each of them. FLOPs are counted, not measured; with the past: of the phase and of "
        "all before it in this study. Accuracy is exact, on the test split of the phase's own task: mean over seeds [least–most]; of one seed its 95 % Wilson interval."
    ))


def _matrices(spec: StudySpec, nodes: list[Node], found: list[Outcome], inner: list[Outcome]) -> list[Table]:
    graded = [(node, node.outcomes(found, inner)) for node in nodes]
    thinks = any("own_chain_exact_accuracy" in row for _, runs in graded for run in runs for test in run.tests.values() for row in test["rows"])
    kinds = {"exact": "Exact accuracy on the test sets" + ", the chain of thought written right" * thinks}
    if thinks:
        kinds["own_chain_exact"] = "Exact accuracy on the test sets, after the model's own chain of thought"
    told = "; ".join(f"{test.name}: {_words(test.task)}" for test in spec.tests)
    note = f"Each phase on each test set, with its own N: mean over seeds [least–most]; of one seed its 95 % Wilson interval. Beside the base's task, {told}."
    return [
        Table(title, ("phase", "seeds", *(test.name for test in spec.tests)), [_row(spec, node, runs, metric) for node, runs in graded], note)
        for metric, title in kinds.items()
    ]


def _row(spec: StudySpec, node: Node, runs: list[Outcome], metric: str) -> tuple[str, ...]:
    scores = []
    for test in spec.tests:
        on = [one for run in runs if (one := run.graded_on(test.name))]
        scores.append(results.score(on, on[0].passes, metric=metric) if on else None)
    return (_named(node), str(len(runs)), *(str(score) if score else NOTHING for score in scores))


def _named(node: Node) -> str:
    """The phase, and the arm that ends there."""
    ends = ", ".join(arm.name for arm in node.ends)
    return ends if not node.name else f"{node.name} → {ends}" if ends else f"{node.name} ({node.home})"


def _words(task: dict[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('arguments.')} = {value}" for key, value in task.items()) or "the same"
