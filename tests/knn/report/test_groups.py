"""Tokens in groups, and what each group adds to the gain."""

import math

import numpy as np
import pytest

from fairseq.knn.report import groups
from fairseq.knn.report.scores import gain


def test_each_grouping_adds_up_to_the_whole_gain():
    rng = np.random.default_rng(4)
    lm, mixed = np.log(rng.random(500)), np.log(rng.random(500))
    overlap = rng.integers(-1, 60, 500)
    way = groups.by_overlap(overlap)
    shares = groups.gain_by_group(way, gain(lm, mixed))
    bounds = {
        "no hit": (-1, -1),
        "0": (0, 0),
        "1": (1, 1),
        "2": (2, 2),
        "3 – 4": (3, 4),
        "5 – 8": (5, 8),
        "9 – 16": (9, 16),
        "17 – 32": (17, 32),
        "≥ 33": (33, 99),
    }
    for label, bits in shares:
        low, high = bounds[label]
        inside = [n for n in range(500) if low <= overlap[n] <= high]
        assert inside
        assert bits == pytest.approx(sum(mixed[n] - lm[n] for n in inside) / 500 / math.log(2))
    assert {label for label, _ in shares} == set(bounds)
    whole = sum(mixed[n] - lm[n] for n in range(500)) / 500 / math.log(2)
    assert sum(bits for _, bits in shares) == pytest.approx(whole)


def test_probabilities_of_zero_gain_nothing():
    lm, mixed = np.log([0.5, 1e-300]), np.log([0.25, 1e-300])
    lm[1] = mixed[1] = -np.inf
    assert gain(lm, mixed).tolist() == [math.log(0.5), 0.0]
    assert groups.gain_by_group(groups.by_overlap(np.array([1, 1])), gain(lm, mixed)) == [("1", -0.5)]


def test_groups_by_frequency_kind_and_distance():
    way = groups.by_frequency(np.array([0, 1, 9, 10, 99, 100, 1000, 100000, 5000000]))
    assert [way.labels[code] for code in way.code_N] == [
        "never",
        "1 – 9",
        "1 – 9",
        "10 – 99",
        "10 – 99",
        "100 – 999",
        "1,000 – 9,999",
        "≥ 100,000",
        "≥ 100,000",
    ]
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "word", "1984", "3rd", ",", "@-@", "naïve", "½", "日本"]
    way = groups.by_kind(symbols, np.arange(12))
    assert [way.labels[code] for code in way.code_N] == [
        "special symbols",
        "special symbols",
        "end of line",
        "special symbols",
        "words",
        "numbers",
        "words with digits",
        "punctuation",
        "punctuation",
        "words",
        "punctuation",
        "words",
    ]
    nearest = np.concatenate([np.random.default_rng(0).random(1000), [np.inf, np.inf]])
    way = groups.by_distance(nearest)
    assert len(way.labels) == 11 and np.bincount(way.code_N).tolist() == [*[100] * 10, 2]
    order = np.argsort(nearest, kind="stable")
    assert (np.diff(way.code_N[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("nearest", [[np.inf, np.inf], [1.0, 1.0, 1.0], [0.0], [1.0, 1.0, 2.0, np.inf]])
def test_few_distances_make_fewer_groups(nearest):
    way = groups.by_distance(np.array(nearest))
    for distance, code in zip(nearest, way.code_N, strict=True):
        assert (way.labels[code] == "no neighbour") == math.isinf(distance)
