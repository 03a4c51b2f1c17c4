"""One self-contained HTML page of what the records say; it needs no network."""

import base64
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from lvf.reporting.claims.table import answers, by_evidence_set, counts_text
from lvf.reporting.page import charts, tables
from lvf.reporting.page.content import effects, evidence_sets, facts, marks, methods
from lvf.reporting.page.provenance import Provenance
from lvf.reporting.report import Report
from lvf.reporting.select.settings import learning_measure, settings


def write_page(report: Report, out: Path, bundle: subprocess.Popen[str] | None = None) -> Path:
    """Write `out` (an .html file): answers, plots, verdicts, tables, and every number's records.

    Args:
        report: what to show.
        out: the file.
        bundle: of `start_bundle`, where it was begun earlier.
    """
    bundle = bundle or start_bundle()
    models, scores = report.models, report.scores
    provenance = Provenance(models, scores)
    sets = evidence_sets(models)
    judged = dict(by_evidence_set(report.verdicts))
    content = {
        "facts": [
            *facts(models, scores),
            *([("only where", report.where)] if report.where else []),
        ],
        "answers": {name: answers(judged[name]) for name in sets[:1] if name in judged},
        "counts": {name: counts_text(of_set) for name, of_set in judged.items()},
        "silent": {
            name: [one for one in of_set if one.effect is None] for name, of_set in judged.items()
        },
        "left_out": report.selection.left_out,
        "tabs": _tabs(report, provenance),
        "num_records": scores.path[scores.source != "paper"].nunique(),
        "num_published": int((scores.source == "paper").sum()),
    }
    shown, learning = marks(models), learning_measure(models)
    conditions = list(dict.fromkeys(mark["condition"] for mark in shown))
    means = effects(report.verdicts)
    families = list(dict.fromkeys(mark["family"] for mark in means))
    plots: dict[str, Any] = {
        "settings": [_linked(mark, provenance) for mark in shown],
        "claims": means,
        "charts": {
            "tradeoff": charts.tradeoff(sets, methods(models), conditions, learning),
            "forest": charts.claims(list(judged), families),
        },
    }
    with_costs = {mark["records"] for mark in shown if "train_flops" in mark}
    if with_costs:
        costed = [name for name in sets if name in with_costs]
        plots["charts"]["cost"] = charts.cost(costed, methods(models), conditions, learning)
    details = {
        "records": provenance.records,
        "models": provenance.models,
        "verdicts": [_plain(verdict) for verdict in report.verdicts],
    }
    page = Environment(
        loader=PackageLoader("lvf.reporting", "page"), autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = page.get_template("page.html").render(
        content,
        plots=_script(_json(plots)),
        details=_packed(_json(details)),
        vega=_packed(_bundled(bundle)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _tabs(report: Report, provenance: Provenance) -> dict[str, list[tables.PageTable]]:
    """The tables of each tab that holds nothing but tables."""
    tabs: dict[str, list[tables.PageTable]] = {
        "Verdicts": [tables.verdicts(report.verdicts)],
        "Results": [], "Learning rates": [], "Cost": [], "Ablations": [], "Altered": [],
        "Ranks": [],
    }  # fmt: skip
    for name, group in tables.own_first(report.models):
        rows = settings(group)
        is_main = rows.role.isin(["base", "main"])
        tabs["Results"].append(tables.results(name, group, rows[is_main], provenance))
        tabs["Learning rates"].append(tables.learning_rates(name, group, provenance))
        tabs["Cost"].append(tables.costs(name, group, provenance))
        if not is_main.all():
            others = tables.results(f"ablations-{name}", group, rows[~is_main], provenance)
            tabs["Ablations"].append(others)
        if len(report.altered(group)):
            tabs["Altered"].append(tables.altered(name, report.altered(group)))
    tabs["Ranks"] = tables.ranks(report, provenance)
    tabs["The paper's tables"] = tables.paper_tables(report, provenance)
    with_rows = {name: [one for one in found if one.rows] for name, found in tabs.items()}
    return {name: found for name, found in with_rows.items() if found}


def _linked(mark: dict[str, Any], provenance: Provenance) -> dict[str, Any]:
    """A mark that leads to the records of its scores."""
    labels = mark.pop("labels")
    measures = ("target", "nll_target", "retention", "nll_source")
    numbers = [n for name in measures for n in provenance.of(labels, name)]
    return mark | {"href": tables.to_records(numbers)}


def start_bundle() -> subprocess.Popen[str]:
    """Begin to make one script of Vega-Lite and its embedder, which takes some seconds.

    In a process of its own, so that claims can be judged meanwhile.
    """
    program = (
        "import sys, vl_convert\n"
        "sys.stdout.write(vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;'))"
    )
    line = [sys.executable, "-X", "utf8", "-c", program]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def _bundled(started: subprocess.Popen[str]) -> str:
    script, _ = started.communicate()
    if started.returncode:
        raise RuntimeError(f"vl_convert.javascript_bundle ended with {started.returncode}")
    return script


def _json(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


def _script(text: str) -> Markup:
    """Text that may stand in a script element, which only `</script` and `<!--` can end."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))  # noqa: S704


def _packed(text: str) -> str:
    """A text as the browser unpacks it: gzip, base64. The same text gives the same block."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _plain(verdict: Any) -> dict[str, Any]:
    return {**vars(verdict), "comparisons": [one.text() for one in verdict.comparisons]}
