"""One self-contained HTML page of everything that the records say; it needs no network."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from lvf.reporting.claims.table import STYLES
from lvf.reporting.figures.catalogue import CATALOGUE, Data, drawn
from lvf.reporting.figures.style import STYLE
from lvf.reporting.page.content import claims_table, leaderboards, plot_rows, result_tables
from lvf.reporting.page.paper import paper_tables
from lvf.reporting.page.provenance import Provenance
from lvf.reporting.report import Report
from lvf.reporting.select.scope import scope_text


def write_page(report: Report, out: Path) -> Path:
    """Write `out` (an .html file): claims, tables, the interactive plot, figures, provenance."""
    models, scores = report.models, report.scores
    data = Data(models, scores, tuple(report.verdicts))
    provenance = Provenance(scores)
    content = {
        "claims": claims_table(report.verdicts),
        "left_out": report.selection.left_out,
        "scope": scope_text(models),
        "decisions": list(STYLES),
        "tables": result_tables(models, provenance),
        "boards": leaderboards(report, provenance),
        "paper_tables": paper_tables(report, provenance),
        "figures": [_figure(name, data) for name in CATALOGUE],
        "num_records": scores.path[scores.source != "paper"].nunique(),
        "num_published": int((scores.source == "paper").sum()),
    }
    embedded = {
        "records": provenance.records,
        "models": provenance.models,
        "verdicts": [_plain(verdict) for verdict in report.verdicts],
        "plot": plot_rows(models, provenance),
    }
    page = Environment(loader=PackageLoader("lvf.reporting", "page"), autoescape=True)
    html = page.get_template("page.html").render(
        content, data=_script(json.dumps(embedded, ensure_ascii=False)), vega=_script(_vega())
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def _vega() -> str:
    """Vega-Lite and its embedder as one script."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _script(text: str) -> Markup:
    """Text that may stand in a script element, which only `</script` and `<!--` can end."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))  # noqa: S704


def _plain(verdict: Any) -> dict[str, Any]:
    return {**vars(verdict), "comparisons": [one.text() for one in verdict.comparisons]}


def _figure(name: str, data: Data) -> dict[str, Any]:
    """Title and pictures of one figure of the catalogue."""
    pictures = [
        {"name": stem, "source": _svg(figure)} for stem, figure in drawn(name, data).items()
    ]
    return {"name": name, "title": CATALOGUE[name].title, "pictures": pictures}


def _svg(figure: Figure) -> str:
    """A figure as the address of an embedded SVG picture."""
    written = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(written.getvalue()).decode()
