"""Figures of uniqueness and novelty say what the numbers do."""

import re

import pytest
from sets import random_crystals, rocksalt

import crysmetrics
from crysmetrics.evaluation import evaluate_measures
from crysmetrics.features.extractor import Run
from crysmetrics.io import Crystals
from crysmetrics.reporting.sameness_figures import sameness_figures


@pytest.fixture(scope="module")
def report():
    crystals = random_crystals(40, 3)
    gen = Crystals.concatenate(
        [crystals, crystals[:10].with_ids([f"again-{i}" for i in range(10)])]
    )
    train = Crystals.concatenate([crystals[20:30], rocksalt()])
    return evaluate_measures(["uniqueness", "novelty"], gen, train=train, run=Run(workers=1))


def test_there_is_a_figure_for_each_question(report):
    figures = {figure.title: figure for figure in sameness_figures(report)}
    assert list(figures) == [
        *("Uniqueness against sample size", "What is new", "Distance to the nearest structure"),
    ]
    curve = figures["Uniqueness against sample size"].svg
    assert "Of 50 structures a share of 0.8 is distinct" in curve
    assert curve.count("<polyline") == 3
    shares = [float(v) for v in re.findall(r"([\d.]+)%", figures["What is new"].svg)]
    assert sum(shares) == pytest.approx(80, abs=0.2)
    assert report["novelty"] == pytest.approx(0.8)
    assert figures["What is new"].svg.count("<rect") == 4
    assert "nearest other" in figures["Distance to the nearest structure"].svg


def test_the_page_has_the_section(report):
    page = report.to_html("a model")
    assert '<section id="sameness">' in page
    assert page.count('href="#sameness"') == 1


def test_reports_without_such_metrics_have_no_such_section():
    report = crysmetrics.symmetric_share(rocksalt(), workers=1, cache="off")
    assert sameness_figures(report) == []
    assert 'id="sameness"' not in report.to_html("x")
    single = crysmetrics.uniqueness(rocksalt(), workers=1, cache="off")
    assert sameness_figures(single) == []
