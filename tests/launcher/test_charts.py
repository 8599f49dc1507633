"""Contract of `launcher.charts` and `launcher.drawing`: what the curves show, and that both forms of a drawing are whole."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from launcher.charts import (
    Series,
    bar_chart,
    compare_chart,
    line_chart,
    loss_chart,
    records_chart,
    score_chart,
    thin,
    ticks,
)
from launcher.drawing import DARK_INKS, INKS, Dot, Label, Scene, Stroke, css_colours, to_png, to_svg
from launcher.losses import LossRecord, parse_stream

SVG = "{http://www.w3.org/2000/svg}"
LOSSES = [
    "train Loss: 1.0",
    "train Loss: 0.8",
    "val  Loss: 0.9 ",
    "train Loss: 0.5",
    "val  Loss: 0.4 ",
    "train Loss: 0.3",
    "val  Loss: 0.6 ",
]


def texts(scene: Scene) -> list[str]:
    return [shape.text for shape in scene.shapes if isinstance(shape, Label)]


def loss_scene() -> Scene:
    scene = loss_chart(list(parse_stream(LOSSES)), title="a run")
    assert scene is not None
    return scene


def test_a_loss_chart_has_its_curves_in_the_legend_and_marks_the_best_val() -> None:
    shown = texts(loss_scene())

    assert {
        "a run",
        "train, each line",
        "train, epoch mean",
        "val",
        "loss",
        "best val 0.4000, epoch 2",
    } <= set(shown)


def test_the_best_val_stands_where_its_epoch_ended() -> None:
    scene = loss_scene()
    best = next(shape for shape in scene.shapes if isinstance(shape, Dot) and shape.ink == "best")
    vals = [shape for shape in scene.shapes if isinstance(shape, Dot) and shape.ink == "val"]

    assert (best.x, best.y) == (vals[1].x, vals[1].y)
    assert best.y == max(dot.y for dot in vals)  # lowest on the page


def test_an_svg_is_xml_with_its_title_and_keeps_inside_its_frame() -> None:
    scene = loss_scene()
    root = ElementTree.fromstring(to_svg(scene))
    title = root.find(f"{SVG}title")

    assert root.get("viewBox") == f"0 0 {scene.width} {scene.height}"
    assert title is not None
    assert title.text == "a run"
    for line in root.iter(f"{SVG}polyline"):
        for pair in (line.get("points") or "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= scene.width
            assert 0 <= y <= scene.height


def test_a_png_has_the_size_and_the_colours_of_the_scene() -> None:
    scene = loss_scene()
    with Image.open(io.BytesIO(to_png(scene, scale=2))) as image:
        assert image.size == (2 * scene.width, 2 * scene.height)
        seen = {colour for _, colour in image.getcolors(image.width * image.height) or []}

    for ink in ("paper", "val", "train", "best"):
        assert tuple(int(INKS[ink][at : at + 2], 16) for at in (1, 3, 5)) in seen


def test_a_themed_svg_takes_every_colour_from_the_page() -> None:
    svg = to_svg(loss_scene(), themed=True)

    assert "#" not in svg
    assert set(INKS) == set(DARK_INKS)
    for ink in INKS:
        assert css_colours().count(f"--{ink}:") == 2


@pytest.mark.parametrize(
    "name", ["</title><script>alert(1)</script>", "a\x00b\x1bc", "\ud800", "&<>\"'", "x" * 5000]
)
def test_a_hostile_title_is_text_in_both_forms(name: str) -> None:
    scene = loss_chart(list(parse_stream(LOSSES)), title=name)
    assert scene is not None

    root = ElementTree.fromstring(to_svg(scene).encode())
    assert not list(root.iter(f"{SVG}script"))
    assert to_png(scene, scale=1).startswith(b"\x89PNG")


def test_a_gap_stays_where_a_loss_is_not_finite() -> None:
    points = (
        (1.0, 1.0),
        (2.0, 2.0),
        (3.0, math.nan),
        (4.0, 1.0),
        (5.0, math.inf),
        (6.0, 2.0),
        (7.0, 1.0),
    )
    scene = line_chart(
        [Series(name="s", points=points, ink="val")], title="t", x_label="x", y_label="y"
    )
    curves = [
        shape
        for shape in scene.shapes
        if isinstance(shape, Stroke) and shape.ink == "val" and shape.width == 2.2
    ]

    # the legend's stroke, then two pieces; the lone point is a dot
    assert [len(curve.points) for curve in curves] == [2, 2, 2]
    assert sum(isinstance(shape, Dot) for shape in scene.shapes) == 1


def test_tested_checkpoints_become_curves_of_scores_over_epochs() -> None:
    lines = [
        f"c{epoch:06d}.pt , f1_macro : {score}, f1_micro 0.7, Accuracy 0.5"
        for epoch, score in ((5, 0.2), (6, 0.3), (7, 0.1))
    ]
    scene = records_chart(list(parse_stream(lines)), title="t")

    assert scene is not None
    assert {"f1_macro", "f1_micro", "accuracy", "epoch", "best f1_macro 0.3000, epoch 6"} <= set(
        texts(scene)
    )
    assert "f1_samples" not in texts(scene)


def test_without_a_record_there_is_no_chart() -> None:
    assert records_chart([], title="t") is None
    assert score_chart([LossRecord(phase="test", loss=0.5)], title="t") is None
    assert compare_chart([("a", list(parse_stream(LOSSES))), ("b", [])], title="t") is None


def test_several_runs_share_one_frame_in_colours_of_their_own() -> None:
    records = list(parse_stream(LOSSES))
    scene = compare_chart([("one", records), ("two", records)], title="t")

    assert scene is not None
    assert {"one val", "one train", "two val", "two train"} <= set(texts(scene))
    assert {"series0", "series1"} <= {shape.ink for shape in scene.shapes}


def test_scores_that_are_all_zero_stand_on_the_floor_of_a_whole_axis() -> None:
    scene = records_chart(
        [
            LossRecord(phase="test", loss=None, values={"epoch": epoch, "f1_macro": 0.0})
            for epoch in (1, 2, 3)
        ],
        title="t",
    )

    assert scene is not None
    assert {"0.0", "1.0", "1", "2", "3"} <= set(texts(scene))  # and epochs are whole numbers
    assert not [text for text in texts(scene) if text.startswith("-")]


def test_a_bar_is_as_long_as_its_value() -> None:
    scene = bar_chart(
        [("walking", 0.5, "n=3"), ("running", 1.0, ""), ("odd", math.nan, "")], title="F1"
    )
    bars = [
        shape.width
        for shape in scene.shapes
        if getattr(shape, "ink", "") == "val" and hasattr(shape, "width")
    ]

    assert bars[0] * 2 == bars[1]
    assert bars[2] == 0


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.integers(2, 12))
def test_ticks_cover_the_range_in_even_round_steps(low: float, width: float, count: int) -> None:
    high = low + width
    if high == low or width < abs(low) * 1e-9:
        return
    found = ticks(low, high, count)
    step = (found[-1] - found[0]) / (len(found) - 1)

    assert found[0] <= low + step * 1e-6
    assert found[-1] >= high - step * 1e-6
    assert len(found) <= count + 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 0.64, [0, 0.2, 0.4, 0.6, 0.8]),
        (20, 49, [20, 30, 40, 50]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_numbers_that_people_would_choose(
    low: float, high: float, expected: list[float]
) -> None:
    assert ticks(low, high, 5) == pytest.approx(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(1, 5))
def test_thinning_keeps_both_ends_and_every_extreme(values: list[float], columns: int) -> None:
    points = [(float(index), value) for index, value in enumerate(values)]
    kept = thin(points, columns)

    assert set(kept) <= set(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert (min(y for _, y in kept), max(y for _, y in kept)) == (min(values), max(values))
    assert len(kept) <= max(4 * (columns + 1), 1)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-12, 1e30])
def test_one_point_or_a_flat_line_is_drawn(value: float) -> None:
    for points in (((1.0, value),), ((1.0, value), (2.0, value))):
        scene = line_chart(
            [Series(name="s", points=points, ink="val")], title="t", x_label="x", y_label="y"
        )
        assert ElementTree.fromstring(to_svg(scene)) is not None


@given(st.lists(st.tuples(st.integers(0, 10**12), st.floats()), max_size=8), st.booleans())
def test_any_losses_can_be_drawn(rows: list[tuple[int, float]], known: bool) -> None:
    """Denormal, huge, infinite or none at all."""
    phases = ("train", "val")
    records = [
        LossRecord(phase=phases[at % 2], loss=loss, values={"step": step} if known else {})
        for at, (step, loss) in enumerate(rows)
    ]
    scene = loss_chart(records, title="t")

    assert (scene is None) == (not rows)
    if scene:
        ElementTree.fromstring(to_svg(scene))


def test_a_long_run_draws_fast_and_small() -> None:
    records = [
        LossRecord(
            phase="train", loss=1 / (step + 1), values={"step": step, "epoch": 1 + step // 1000}
        )
        for step in range(64_000)
    ]
    start = time.perf_counter()
    scene = loss_chart(records, title="t")

    assert scene is not None
    assert len(to_svg(scene)) < 100_000
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "name",
    [
        "32_bit_bilinear_resizer_logs.txt",
        "resizer_3d_56.txt",
        "resnet_18_training.txt",
        "eval_logsd_20th.txt",
        "accuracy_eval.txt",
    ],
)
def test_every_kind_of_real_log_can_be_drawn(shared: Path, name: str) -> None:
    text = (shared / "real/logs" / name).read_text(errors="replace")
    scene = records_chart(list(parse_stream(text.splitlines())), title=name)

    assert scene is not None
    assert len(list(ElementTree.fromstring(to_svg(scene)).iter(f"{SVG}polyline"))) > 5
