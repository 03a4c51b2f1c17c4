"""The page's plots as Vega-Lite, with that library's own legends, selections and tooltips."""

from typing import Any

import altair as alt

from lvf.reporting.claims.table import STYLES
from lvf.reporting.figures.cost import COSTS

VERDICT_COLOURS = ("#0a8f6c", "#d0561c", "#b5830a", "#7d8791", "#3f86c6", "#a3a9b0")
"""Of the verdicts in the order of `STYLES`; each can be read on white and on black."""
VERDICT_SHAPES = ("circle", "cross", "diamond", "triangle-up", "square", "stroke")
RECORDS, SETTINGS, CLAIMS = "records", "settings", "claims"
"""Names of the choice of records, and of the two tables of marks that the page holds."""
KEPT = {
    "retention": "accuracy on source tasks",
    "likelihood": "probability of a source token, exp(−NLL)",
}
LEARNED = {
    "target": "target score",
    "nll_target": "probability of a target token, exp(−NLL)",
}
FAINT = 0.12


def tradeoff(
    evidence_sets: list[str], methods: list[str], conditions: list[str], learning: str
) -> dict[str, Any]:
    """Learning against retention, a panel a condition; the rows are `content.marks`."""
    kept = _choice("kept", "Kept by ", list(KEPT), list(KEPT.values()))
    x = alt.X("x:Q").scale(zero=False, nice=False, padding=14).title("source domain kept →")
    text = "Learning against what is kept of the source domain"
    return _panels(evidence_sets, methods, conditions, learning, kept, x, text)


def cost(
    evidence_sets: list[str], methods: list[str], conditions: list[str], learning: str
) -> dict[str, Any]:
    """Learning against cost, a panel a condition, on a log axis."""
    spent = _choice("kept", "Cost ", list(COSTS), list(COSTS.values()))
    x = (
        alt.X("x:Q")
        .scale(type="log", nice=False, padding=14)
        .axis(format="~s", tickCount=4)
        .title("cost →")
    )
    return _panels(evidence_sets, methods, conditions, learning, spent, x, "Learning against cost")


def _choice(name: str, text: str, values: list[str], labels: list[str]) -> alt.Parameter:
    menu = alt.binding_select(options=values, labels=labels, name=text)
    return alt.param(name, bind=menu, value=values[0] if values else None)


def _panels(
    evidence_sets: list[str],
    methods: list[str],
    conditions: list[str],
    learning: str,
    measure: alt.Parameter,
    x: alt.X,
    text: str,
) -> dict[str, Any]:
    """Learning over the chosen measure: lines through durations, bars of one standard error.

    Main methods at their chosen rates; a switch shows all others.
    """
    chosen = _choice(RECORDS, "Records ", evidence_sets, evidence_sets)
    box = alt.binding_checkbox(name="all methods and rates ")
    everything = alt.param("everything", bind=box, value=False)
    highlight = alt.selection_point("method", fields=["method"], bind="legend")
    y = alt.Y("learned:Q").scale(zero=False, nice=False, padding=14)
    y = y.title(f"{LEARNED[learning]} →")
    look = alt.Color("method:N").sort(methods).legend(None)
    coloured = alt.ExprRef("scale('color', datum.value)")  # a single legend, of shape and colour
    shape = alt.Shape("method:N").sort(methods).title(None)
    shape = shape.legend(symbolFillColor=coloured, symbolStrokeColor=coloured)
    only = _choice("only", "Highlight ", ["", *methods], ["all", *methods])
    lit = alt.when(highlight, lit=True)
    opacity = lit.then(alt.value(1)).otherwise(alt.value(FAINT))
    tooltip = [
        alt.Tooltip("method:N"), alt.Tooltip("rate:N", title="learning rate"),
        alt.Tooltip("length:N", title="trained for"), alt.Tooltip("seeds:Q"),
        alt.Tooltip("target_text:N", title="target score"),
        alt.Tooltip("nll_target_text:N", title="target NLL"),
        alt.Tooltip("retention_text:N", title="source tasks"),
        alt.Tooltip("nll_source_text:N", title="source NLL"),
        alt.Tooltip("cost:N", title="cost of training"),
    ]  # fmt: skip
    bare = alt.Chart().encode(x, y, color=look, opacity=opacity)
    lines = bare.mark_line(strokeWidth=1.5).encode(detail="line:N", order="duration:Q")
    lines = lines.transform_filter("datum.line")
    upright = bare.mark_rule().encode(y=alt.Y("learned_low:Q"), y2="learned_high:Q")
    flat = bare.mark_rule().encode(x=alt.X("low:Q"), x2="high:Q").transform_filter("datum.high")
    points = alt.Chart().mark_point(filled=True, strokeWidth=1.5).encode(
        x, y, color=look, opacity=opacity, shape=shape, tooltip=tooltip, href="href:N",
        size=alt.Size("duration:Q").legend(None).scale(type="log", range=[50, 190]),
    )  # fmt: skip
    chart = (
        alt.layer(lines, upright, flat, points.add_params(highlight), data=_named(SETTINGS))
        .transform_filter(f"datum.records === {RECORDS} && (datum.main || everything)")
        .transform_calculate(
            x="datum[kept]",
            low="datum[kept + '_low']",
            high="datum[kept + '_high']",
            lit="only === '' || only === datum.method",
        )
        .transform_filter("isValid(datum.x) && isValid(datum.learned)")
        .facet(_header("condition:N", conditions), columns=2)
        .resolve_scale(x="independent", y="independent", size="independent")
        .add_params(chosen, measure, only, everything)
        .properties(description=text)
    )
    return _spec(chart)


def claims(evidence_sets: list[str], families: list[str]) -> dict[str, Any]:
    """Every claim's mean with its 95 % interval, a panel a unit; the rows are `content.effects`."""
    chosen = _choice(RECORDS, "Records ", evidence_sets, evidence_sets)
    highlight = alt.selection_point("verdict", fields=["verdict"], bind="legend")
    verdicts = list(STYLES)
    look = alt.Color("verdict:N").title(None).scale(domain=verdicts, range=list(VERDICT_COLOURS))
    shape = alt.Shape("verdict:N").title(None).scale(domain=verdicts, range=list(VERDICT_SHAPES))
    opacity = alt.when(highlight).then(alt.value(1)).otherwise(alt.value(FAINT))
    y = alt.Y("place:O").axis(None)
    grid = {"condition": {"test": "datum.value === 0", "value": "#888"}, "value": "#88888833"}
    x = alt.X("effect:Q").title(None).scale(zero=True).axis(gridColor=grid)
    tooltip = [
        alt.Tooltip("label:N", title="claim"), alt.Tooltip("verdict:N"),
        alt.Tooltip("effect_text:N", title="mean"), alt.Tooltip("unit:N"),
        alt.Tooltip("interval:N", title="95 % here"), alt.Tooltip("agree:N"),
        alt.Tooltip("p:N", title="corrected p"),
    ]  # fmt: skip
    marks = alt.Chart().encode(y=y, opacity=opacity)
    bars = marks.mark_rule(strokeWidth=2.5, invalid="show").encode(
        alt.X("low:Q"), x2="high:Q", color=look
    )
    points = marks.mark_point(filled=True, size=90, invalid="show").encode(
        x, color=look, shape=shape, tooltip=tooltip, href="href:N"
    )
    texts = marks.mark_text(align="left", dy=-13, limit=alt.ExprRef("panel")).encode(
        x=alt.value(6), text="label:N", tooltip=tooltip, href="href:N"
    )
    layers = alt.layer(bars, points.add_params(highlight), texts, data=_named(CLAIMS))
    chart = (
        layers.properties(height=alt.Step(38))
        .transform_filter(f"datum.records === {RECORDS}")
        .facet(_header("family:N", families), columns=1)
        .resolve_scale(x="independent", y="independent")
        .add_params(chosen, alt.param("panel", value=600))
        .properties(description="The mean effect of every claim, positive as the paper says")
    )
    return _spec(chart)


def _header(field: str, order: list[str]) -> alt.Facet:
    return alt.Facet(field).title(None).sort(order).header(labelAnchor="start")


def _named(table: str) -> alt.NamedData:
    return alt.NamedData(name=table)


def _spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as Vega-Lite without altair's own looks, which the page sets by its theme."""
    tree = chart.to_dict()
    tree.pop("config", None)
    return tree
