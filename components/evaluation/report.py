"""The evaluation of an encoder as a page that needs nothing beside it."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

from components.evaluation.exported_encoder import TrainingInfo
from components.evaluation.gates import Gate, is_blessed
from components.evaluation.measurement import Measurement

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } caption { text-align: left; font-weight: 600; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.passed { color: #1a6b2d; } .failed { color: #b00020; font-weight: 600; } .judged { color: #666; }
img { max-width: 100%; } figure { margin: 0 0 1.5rem; }
"""
_CAPTIONS = {
    "reconstructions.png": "Inputs, and what the decoder makes of their embeddings",
    "errors.png": "How well images are reconstructed",
    "retrieval.png": "Queries of the eval split and their neighbours, with cosine",
    "spectrum.png": "How the embedding uses its dimensions",
}
_SPACES = {
    "embedding": "this encoder",
    "code": "its bits",
    "served": "the served encoder",
    "pca": "PCA",
    "itq": "ITQ",
    "pixels": "raw pixels",
}
_SCORES = {
    "one_nn": "1-NN",
    "five_nn": "5-NN",
    "precision_at_10": "P@10",
    "map_at_r": "mAP@R",
    "map_at_1000": "mAP@1000",
    "ranking_at_1000": "label ranking AP@1000",
}


def render_report(
    info: TrainingInfo, measured: Measurement, gates: Sequence[Gate], pictures: Mapping[str, bytes]
) -> str:
    """Returns the HTML page. pictures: file name -> PNG, see encoder_pictures; they are put inside the page."""
    verdict = "Blessed" if is_blessed(gates) else "Not blessed"
    parts = [
        f"<h1>{verdict}: {_text(info.family)}, {info.dimension} dimensions</h1>",
        f"<p>{_text(_sample(measured))}</p>",
        _gates(gates),
        _reconstruction(measured),
        _recall(measured),
        _labelled(measured),
        *(_picture(name, caption, pictures[name]) for name, caption in _CAPTIONS.items() if name in pictures),
    ]
    head = f'<meta charset="utf-8"><title>{verdict}: encoder</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _sample(measured: Measurement) -> str:
    source = "the train split (the eval split is empty)" if measured.eval_reuses_train else "the eval split"
    topped_up = (
        f" There are so few that {measured.asked} images are reconstructed and copied, with some of the train split."
        if measured.asked > measured.queries
        else ""
    )
    return (
        f"{measured.records} examples. Measured with {measured.queries} queries of {source} against "
        f"{measured.database} different images, and altered copies of {measured.copies} of them. Scores are cosine, "
        "a query's own image is left out, embeddings come from the exported SavedModel." + topped_up
    )


def _gates(gates: Sequence[Gate]) -> str:
    rows = [
        f'<tr><td class="{_text(gate.status.split()[-1])}">{_text(gate.status)}</td><td>{_text(gate.name)}</td>'
        f"<td>{_text(gate.reason)}{' Try: ' + _text(gate.advice) if gate.status == 'failed' else ''}</td></tr>"
        for gate in gates
    ]
    return "<table><caption>What it must show</caption>" + "".join(rows) + "</table>"


def _reconstruction(measured: Measurement) -> str:
    r = measured.reconstruction
    pca = f"PCA, {r.pca_dimension} dimensions, fitted on {r.pca_fitted_on} training images"
    rows = [("this encoder", r.reported), ("the served encoder", measured.served_mse), (pca, r.pca)]
    rows += [("predict the mean training image", r.mean), ("all-black", r.black)]
    cells = [[name, f"{value:.5f}"] for name, value in rows if value is not None]
    return _table("Reconstruction: mean squared error, pixels in [0, 1]", ["", "error"], cells)


def _recall(measured: Measurement) -> str:
    spaces = [name for name in _SPACES if name in measured.recall]
    kinds = list(measured.recall["embedding"])
    cells = [[kind, *(f"{measured.recall[name][kind]:.3f}" for name in spaces)] for kind in kinds]
    mean = [sum(measured.recall[name].values()) / len(kinds) for name in spaces]
    cells.append(["mean", *(f"{value:.3f}" for value in mean)])
    title = "Recall@1 of the original, asked with an altered copy"
    return _table(title, ["copy", *(_SPACES[name] for name in spaces)], cells)


def _labelled(measured: Measurement) -> str:
    spaces = [name for name in _SPACES if measured.labelled.get(name)]
    if not spaces:
        return "<p>There are no labels that images share, to compare neighbours by.</p>"
    cells = [[title, *(_score(measured, name, score) for name in spaces)] for score, title in _SCORES.items()]
    title = (
        f"Do neighbours share the label? Means over {measured.labelled_queries} queries, 95% confidence over queries"
    )
    return _table(title, ["", *(_SPACES[name] for name in spaces)], cells)


def _score(measured: Measurement, name: str, score: str) -> str:
    value = f"{measured.labelled[name][score]:.3f}"
    if name not in measured.labelled_intervals:
        return value
    low, high = measured.labelled_intervals[name][score]
    return f"{value} ({low:.3f} to {high:.3f})"


def _table(caption: str, head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f'<th class="number">{_text(name)}</th>' if name else "<th></th>" for name in head)
    body = "".join(
        f"<tr><td>{_text(row[0])}</td>"
        + "".join(f'<td class="number">{_text(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><caption>{_text(caption)}</caption><tr>{titles}</tr>{body}</table>"


def _picture(name: str, caption: str, data: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<figure><figcaption>{_text(caption)}</figcaption><img alt="{_text(caption)}" src="{source}"></figure>'


def _text(value: str) -> str:
    return html.escape(value)
