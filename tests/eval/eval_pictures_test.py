"""Difficulties with many values, pooled and pictured, for every task: sums against a recount, words that nowhere overlap."""
import io
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from rich.console import Console

from sleepnet import tasks
from sleepnet.config import ModelConfig
from sleepnet.eval import bins, heat, plots, report, runner
from sleepnet.eval.intervals import wilson
from sleepnet.tasks.base import Task
from sleepnet.tasks.registry import task_class

# every axis of every task with more than one value in the test, some with many
TASKS = {
    "days": dict(days=12, facts=4),
    "depo": dict(nodes=9, hops=8, queries=4),
    "group": dict(length=(2, 20)),
    "gsm": dict(ops=(1, 6), length=(90, 160), places=16, things=12, limit=60, fillers="alike", window=64, direction="both"),
    "hinted": dict(nodes=9, hops=8),
    "khop": dict(),
    "mqar": dict(pairs=(4, 40), length=256, vocabulary=1024),
    "phonebook": dict(kind="context", entries=12),
    "rule110": dict(width=12, strings=2, steps=(1, 32)),
    "skills": dict(kind="stream", days=6),
    "selective_copy": dict(length=64, copies=(4, 28)),
    "variables": dict(noise=(0, 60), hops=5, window=None),
}
EXAMPLES = 150


def graded(task, split="test"):
    """(rows of a made-up model with N = 1 and 4, its counts [E, A] by N, difficulties)."""
    batch, generator = task.batch(0, split, 0, EXAMPLES), np.random.default_rng(0)
    tokens = np.stack([(batch["answer"] == a).sum(1) for a in range(task.answers)], 1)
    rows, counts = [], {}
    for passes in (1, 4):
        right = generator.binomial(tokens, 0.2 * passes)
        counts[passes] = [right, tokens, (right == tokens).astype(int), np.zeros_like(tokens)]
        told = {} if split == "train" else task.baselines()
        rows += [{"passes": passes, "split": split} | row for row in runner._rows(counts[passes], batch["difficulty"], told)]
    return rows, counts, batch["difficulty"]


@pytest.fixture(scope="module")
def everything():
    return {name: (task := tasks.get(name, **arguments), *graded(task)) for name, arguments in TASKS.items()}


def test_every_task_is_here_and_has_words_for_its_axes():
    assert set(TASKS) == {name for name in tasks.names() if issubclass(task_class(name), Task)}
    for name in TASKS:
        cls = type(tasks.get(name, **TASKS[name]))
        assert tuple(cls.axis_words) == cls.difficulty_axes and all(0 < len(words) < 50 for words in cls.axis_words.values())


@pytest.mark.parametrize("name, axis", [("variables", "noise"), ("mqar", "pairs"), ("rule110", "steps"), ("selective_copy", "copies")])
def test_spans_hold_the_answers_that_are_in_them(everything, name, axis):
    task, rows, counts, difficulty = everything[name]
    spans = bins.spans(rows)
    pooled, values = bins.pool(rows, spans), difficulty[axis]
    ends = [(span.least, span.most) for span in spans[axis]]
    assert 2 < len(ends) <= 12 and all(a[1] < b[0] for a, b in itertools.pairwise(ends))
    asked = counts[1][1] > 0
    assert {int(value) for value in values[asked]} <= {v for least, most in ends for v in range(least, most + 1)}
    for passes, (least, most) in itertools.product((1, 4), ends):
        (row,) = [r for r in pooled if (r["passes"], r["axis"], r["value"]) == (passes, axis, (least, most))]
        right, tokens, exact, _ = (array[asked & (values >= least) & (values <= most)] for array in counts[passes])
        assert (row["answers"], row["tokens_graded"]) == (len(tokens), tokens.sum())
        assert row["label_accuracy"] == right.sum() / tokens.sum() and row["exact_interval"] == list(wilson(exact.sum(), len(exact)))
        told = task.baselines()["chance"]["by"][axis]
        each = values[asked & (values >= least) & (values <= most)]
        assert row["baselines"]["chance"]["exact"] == pytest.approx(np.mean([told[int(value)]["exact"] for value in each]))
    others = [row for row in rows if row["axis"] not in spans]
    assert [row for row in pooled if row["axis"] not in spans] == others


def test_spans_hold_about_as_many_answers_each():
    rows = [{"axis": "x", "value": value, "answers": answers} for value, answers in enumerate([1000] + [10] * 40 + [400] * 8)]
    sizes = [sum(row["answers"] for row in rows if span.least <= row["value"] <= span.most) for span in bins.spans(rows)["x"]]
    assert sizes[0] == 1000 and max(sizes[1:]) <= 2 * sum(sizes) / 12 and bins.spans(rows[:20]) == {}


def clear(figure):
    """Every word of a picture, drawn: none runs over another or out of the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, edge = canvas.get_renderer(), figure.bbox
    unseen = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        unseen |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    words = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in unseen]
    boxes = []
    for text in words:
        box = text.get_window_extent(renderer)
        assert edge.x0 - 1 <= box.x0 and box.x1 <= edge.x1 + 1 and edge.y0 - 1 <= box.y0 and box.y1 <= edge.y1 + 1, text
        upright = text.get_rotation() % 90 == 0
        for other, there in boxes:
            if upright and other.get_rotation() % 90 == 0:
                assert not box.padded(-0.5).overlaps(there.padded(-0.5)), (text, other)
        boxes.append((text, box))
    return [text.get_text() for text in words]


@pytest.mark.parametrize("name", TASKS)
def test_pictures_of_every_task_can_be_read(everything, name):
    task, rows, *_ = everything[name]
    pooled = bins.pool(rows, bins.spans(rows))
    axes = [axis for axis in task.difficulty_axes if len({row["value"] for row in pooled if row["axis"] == axis}) > 1]
    assert axes == list(task.difficulty_axes) or name == "depo"  # the cycles of depo's test are of one size
    for axis in axes:
        chosen = [row for row in pooled if row["axis"] == axis]
        for draw in (plots.draw, plots.draw_heat):
            words = clear(draw(chosen, f"runs/{name} on {name}, test split", task.axis_words[axis]))
            told = {guess.replace("_", " ") for guess in task.baselines()}
            assert {"N = 1", "N = 4", task.axis_words[axis], *told} <= set(words)


def test_a_heat_map_has_a_row_for_each_n_and_each_guess(everything):
    _, rows, *_ = everything["khop"]
    chosen = [row for row in rows if row["axis"] == "k"]
    axes = plots.draw_heat(chosen, "t").axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["N = 1", "N = 4", "chance", "constant", "last letter", "one hop"]
    images = dict(zip(labels, axes.get_images()))
    for row in chosen:
        assert images[f"N = {row['passes']}"].get_array()[0, row["value"] - 1] == row["exact_accuracy"]
        assert images["one hop"].get_array()[0, row["value"] - 1] == row["baselines"]["one_hop"]["exact"]
    assert all((image.norm.vmin, image.norm.vmax) == (0, 1) for image in images.values())


def test_what_is_not_there_is_an_empty_cell():
    axes = heat.draw(["1", "2"], {"N = 1": [0.5, float("nan")]}, {}, title="", across="k").axes[0]
    assert [text.get_text() for text in axes.texts] == [".50"] and axes.get_images()[0].get_array().mask.tolist() == [[False, True]]


@pytest.mark.parametrize("value, text", [(1, "1"), (0.9996, ".99"), (0.5, ".50"), (0.004, "<.01"), (0.0, "0")])
def test_a_cell_that_is_not_quite_all_does_not_say_so(value, text):
    assert heat.cell(value) == text


def test_the_table_takes_neighbours_together_too(everything):
    task, rows, *_ = everything["variables"]
    rows = [row | {"tokens": 1, "flops": 1, "flops_sleep": 1, "flops_wake_token": 1} for row in rows]
    console = Console(width=200, record=True, file=io.StringIO())
    report.show(rows, ModelConfig(vocab_size=task.vocab_size, window=task.window), console)
    text = console.export_text()
    assert "hops = 5" in text and "noise = 60" not in text and "–60 " in text and text.count("noise = ") <= 12
