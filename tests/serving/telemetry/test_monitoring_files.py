"""Dashboard, alert rules and their page, held against what a real gateway tells Prometheus."""

import json
import pathlib
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from serving.client import Query, QueryFailed
from serving.gateway.options import Monitoring
from serving.release.distribution import Distribution
from serving.telemetry.drift import LEAST
from tests.serving.collection import Collection
from tests.serving.fanned_out import FannedOut
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.telemetry import promql
from tests.serving.telemetry.monitored import Monitored, Scrape

ROOT = pathlib.Path(__file__).parents[3]
RULES = ROOT / "kubernetes" / "monitoring" / "alerts.yaml"
DASHBOARD = ROOT / "kubernetes" / "monitoring" / "dashboard.json"
PAGE = ROOT / "docs" / "monitoring.md"
# Prometheus adds these to everything it scrapes.
TARGET = {"job", "instance"}
# What the clients of Prometheus tell of every process.
OF_ANY_PROCESS = {"process_virtual_memory_bytes", "process_start_time_seconds"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return value


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """Yields (panel, PromQL)."""
    board = dashboard()
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], re.sub(r"label_values\((.*), *(\w+)\)", r"sum by (\2) (\1)", variable["definition"])


def expressions() -> list[Any]:
    given = [(f"alert {rule['alert']}", rule["expr"]) for rule in rules()]
    return [pytest.param(expression, id=name) for name, expression in [*given, *dashboard_expressions()]]


@pytest.fixture(scope="module")
def scrape(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrape]:
    """What a gateway tells after some queries; enough of them to see drift."""
    collection = Collection(tmp_path_factory.mktemp("monitoring"))
    uniform = Distribution.of(np.linspace(0.0, 1.0, 500).tolist())
    assert uniform is not None
    collection.publish(
        evaluation={"top1_scores": uniform.to_dict()}, encoder_metrics={"reconstruction_errors": uniform.to_dict()}
    )
    with (
        Monitored(loop, collection, monitoring={"reconstruct_images": 1.0}) as gateway,
        FannedOut(loop, collection, of=2, root={"monitoring": told(collection)}) as fanned,
    ):
        gateway.client.wait_until_serving(60)
        gateway.client.batch_search([Query(vector=[1.0] * 16)] * LEAST)
        gateway.client.search(vector=[1.0] * 16, filter='label = "1"')
        with pytest.raises(QueryFailed):
            gateway.client.search(image=b"no image")
        while gateway.scrape().value("lookalike_reconstructions_total", outcome="measured") < LEAST:
            for seed in range(50):
                gateway.client.search(image=png(seed), k=1)
        fanned.wait_until_whole()
        scrape = gateway.scrape()
        # What only a root tells.
        scrape.samples = {**scraped(collection).samples, **scrape.samples}
        yield scrape


def told(collection: Collection) -> Monitoring:
    return Monitoring(metrics_port=0, metrics_port_file=f"{collection.root}.root-metrics-port")


def scraped(collection: Collection) -> Scrape:
    port = pathlib.Path(f"{collection.root}.root-metrics-port").read_text().strip()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        return Scrape(response.read().decode())


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_told(scrape: Scrape, expression: str) -> None:
    asked = promql.selectors(expression)
    assert asked, "it asks for nothing"
    names = {name for name, _ in scrape.samples}
    for selector in asked:
        assert selector.metric in names, f"there is no {selector.metric}"
        labels = scrape.labels(selector.metric) | TARGET
        for label, _, _ in selector.matchers:
            assert label in labels, f"{selector.metric} has no label {label}"
        for label, value in selector.values():
            assert scrape.has(selector.metric, **{label: value}), f"{selector.metric} never has {label}={value}"
    known = set().union(*(scrape.labels(selector.metric) for selector in asked)) | TARGET
    assert promql.grouping(expression) <= known


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(lookalike_nonsense_total[5m])", "there is no lookalike_nonsense_total"),
        ('grpc_server_handled_total{code="OK"}', "has no label code"),
        ('grpc_server_handled_total{grpc_code="UNAVAILABLE"}', "never has grpc_code=UNAVAILABLE"),
        ('x{a="b"} / on (job) up > 1', "there is no x"),
        ("sum by (color) (lookalike_encoder_up)", "color"),
    ],
)
def test_what_is_not_told_is_noticed(scrape: Scrape, expression: str, wrong: str) -> None:
    with pytest.raises(AssertionError, match=wrong):
        test_what_is_asked_for_is_told(scrape, expression)


def test_expressions_are_read_right() -> None:
    expression = """
        histogram_quantile(0.99, sum by (job, le) (rate(a_bucket{b="c|d", e=~"f|g", h!="i"}[5m]))) > 7 * 86400
        and on (instance) (avg_over_time(k[1h:5m] offset 1d) == bool 1) or absent(l)
    """
    a, k, absent = promql.selectors(expression)
    assert (a.metric, k.metric, absent.metric) == ("a_bucket", "k", "l")
    assert a.matchers == (("b", "=", "c|d"), ("e", "=~", "f|g"), ("h", "!=", "i"))
    assert a.values() == [("b", "c|d"), ("e", "f"), ("e", "g")]
    assert promql.grouping(expression) == {"job", "le", "instance"}


def test_alerts_say_what_to_do() -> None:
    headings = [_anchor(line) for line in PAGE.read_text().splitlines() if line.startswith("#")]
    assert len(set(headings)) == len(headings)
    alerts = rules()
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (ROOT / page) == PAGE
        assert anchor in headings, f"{rule['alert']} points at no section of {page}: {anchor}"
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert f"`{rule['alert']}`" in PAGE.read_text(), f"{page} does not name {rule['alert']}"


def test_panels_have_a_place_and_a_text() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, f"{panel['title']} lies on another"
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)


def test_the_page_names_every_metric_and_no_other(scrape: Scrape) -> None:
    suffixes = re.compile(r"_(bucket|sum|count)$")
    histograms = {suffixes.sub("", name) for name, labels in scrape.samples if "le" in dict(labels)}
    told = {suffixes.sub("", name) if suffixes.sub("", name) in histograms else name for name, _ in scrape.samples}
    described = set(re.findall(r"^\| `([a-z0-9_]+)", PAGE.read_text(), re.MULTILINE))
    assert described >= told - OF_ANY_PROCESS, f"not described: {sorted(told - OF_ANY_PROCESS - described)}"
    assert described <= told, f"not told: {sorted(described - told)}"


def test_the_page_names_the_labels(scrape: Scrape) -> None:
    for metric, labels in re.findall(r"^\| `([a-z0-9_]+)(?:\{([a-z_, ]+)\})?`", PAGE.read_text(), re.MULTILINE):
        names = {label.strip() for label in labels.split(",") if label}
        found = scrape.labels(metric) or scrape.labels(f"{metric}_count")
        assert names == found, f"{metric} has the labels {sorted(found)}"


def _anchor(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    text = heading.lstrip("#").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
