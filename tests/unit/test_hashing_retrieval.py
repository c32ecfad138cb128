"""Retrieval figures: by hand, by enumeration, against sklearn and torchmetrics."""

import time
import tracemalloc
from fractions import Fraction as F
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch

from advreg.errors import ConfigurationError, DataError
from advreg.hashing.packing import CodeFormat
from advreg.hashing.relevance import Relevance
from advreg.hashing.retrieval import evaluate_retrieval, figures, rank
from advreg.hashing.ties import average_precision, precision_at

BITS = 16

BY_HAND = {
    # distances, relevant, k, expected, optimistic, pessimistic
    "no ties": ([0, 1, 2, 3], [1, 0, 1, 0], None, F(5, 6), F(5, 6), F(5, 6)),
    "all tied": ([2, 2, 2, 2], [1, 0, 0, 1], None, F(49, 72), 1, F(5, 12)),
    "one relevant, last": ([0, 1, 2], [0, 0, 1], None, F(1, 3), F(1, 3), F(1, 3)),
    "one relevant, tied": ([3, 3, 3], [0, 1, 0], None, F(11, 18), 1, F(1, 3)),
    "k beyond the database": ([0, 1, 2, 3], [1, 0, 1, 0], 10, F(5, 6), F(5, 6), F(5, 6)),
    "k below the relevant": ([0, 0, 1], [1, 0, 1], 1, F(1, 2), 1, 0),
    "k within a tie": ([0, 1, 1, 1], [1, 0, 1, 0], 2, F(2, 3), 1, F(1, 2)),
    "two ties": ([0, 0, 1, 1], [1, 0, 1, 0], None, F(2, 3), F(5, 6), F(1, 2)),
    "all relevant": ([1, 1, 5], [1, 1, 1], None, 1, 1, 1),
    "relevant beyond k": ([0, 1, 2], [0, 0, 1], 2, 0, 0, 0),
}


def codes_at(distances, bits=BITS):
    """Codes with so many ones, which is how far they are from the code of zeros."""
    ones = np.arange(bits) < np.array(distances)[:, None]
    return CodeFormat(bits).pack(ones)


def measured(distances, relevant, ks=(), bits=BITS):
    """The figures of one query; as labels, for among classes all relevant would be one class."""
    labels = np.array(relevant)[:, None]
    return evaluate_retrieval(
        codes_at([0], bits), codes_at(distances, bits), np.array([[1]]), labels, bits, ks
    )


def test_average_precision_is_the_one_computed_by_hand():
    for case in BY_HAND:
        distances, relevant, k, *wanted = BY_HAND[case]
        found = measured(distances, relevant, () if k is None else (k,))
        found = found["map"] if k is None else found[f"map@{k}"]
        bounds = [found[name] for name in ("expected", "optimistic", "pessimistic")]
        assert bounds == pytest.approx([float(value) for value in wanted], abs=1e-12)


def test_several_labels_are_relevant_where_one_is_shared():
    found = evaluate_retrieval(
        codes_at([0]),
        codes_at([0, 0, 1]),
        np.array([[1, 0, 1]]),
        torch.tensor([[0, 0, 1], [0, 1, 0], [1, 1, 0]]),
        BITS,
    )
    assert found["map"]["expected"] == pytest.approx(17 / 24)


def test_queries_without_a_relevant_image_are_left_out_and_counted():
    database = codes_at([0, 1, 2])
    found = evaluate_retrieval(
        codes_at([0, 0]), database, np.array([1, 9]), np.array([1, 0, 1]), BITS, [2]
    )
    assert found["map"]["expected"] == pytest.approx(5 / 6)
    assert found["without_relevant"] == 1
    # The other code's column counts them as zeros.
    assert found["map"]["deephash_pytorch"] == pytest.approx(5 / 12)
    with pytest.raises(DataError, match="No query has a relevant image"):
        evaluate_retrieval(codes_at([0]), database, np.array([9]), np.array([1, 0, 1]), BITS)


def ap(relevant, k):
    places = [place for place, right in enumerate(relevant[:k], 1) if right]
    hits = [number / place for number, place in enumerate(places, 1)]
    return sum(hits) / min(sum(relevant), k)


def orders_within_ties(distances, relevant):
    for order in set(permutations(range(len(distances)))):
        if all(distances[a] <= distances[b] for a, b in pairwise(order)):
            yield [relevant[place] for place in order]


def test_all_orders_of_the_tied_average_to_the_figure_and_reach_its_bounds():
    for k in (1, 3, 4, 6, 9):
        random = np.random.default_rng(k)
        for _ in range(8):
            distances = random.integers(0, 3, 6).tolist()
            relevant = random.integers(0, 2, 6).tolist()
            if not any(relevant):
                continue
            every = [ap(order, k) for order in orders_within_ties(distances, relevant)]
            tops = [sum(order[:k]) / min(k, 6) for order in orders_within_ties(distances, relevant)]
            rankings = rank(
                codes_at([0]),
                codes_at(distances),
                Relevance(np.array([[1]]), np.array(relevant)[:, None]),
                BITS,
            )
            found = average_precision(rankings.counts, rankings.hits, k)
            assert found.expected[0] == pytest.approx(np.mean(every), abs=1e-12)
            assert found.optimistic[0] == pytest.approx(max(every), abs=1e-12)
            assert found.pessimistic[0] == pytest.approx(min(every), abs=1e-12)
            top = precision_at(rankings.counts, rankings.hits, k)
            assert top[0] == pytest.approx(np.mean(tops), abs=1e-12)


def random_codes(count, bits, seed):
    return CodeFormat(bits).pack(np.random.default_rng(seed).random((count, bits)) < 0.5)


def test_distances_are_the_number_of_bits_that_differ():
    for bits in (8, 12, 48, 72, 256):
        queries, database = random_codes(3, bits, 0), random_codes(9, bits, 1)
        layout = CodeFormat(bits)
        wanted = layout.unpack(queries)[:, None] != layout.unpack(database)
        relevance = Relevance(np.arange(3), np.arange(9) % 3)
        rankings = rank(queries, database, relevance, bits)
        for query, distances in enumerate(wanted.sum(2)):
            assert (
                rankings.counts[query].tolist()
                == np.bincount(distances, minlength=bits + 1).tolist()
            )
            own = distances[np.arange(9) % 3 == query]
            assert rankings.hits[query].tolist() == np.bincount(own, minlength=bits + 1).tolist()


def test_random_orders_of_a_real_ranking_average_to_the_figure():
    random = np.random.default_rng(0)
    targets = random.integers(0, 4, 300)
    queries, database = random_codes(5, 8, 2), random_codes(300, 8, 3)
    wanted = evaluate_retrieval(queries, database, np.arange(5) % 4, targets, 8, [50])
    drawn = []
    for _ in range(400):
        order = random.permutation(300)
        shuffled = Relevance(np.arange(5) % 4, targets[order])
        # With as many relevant as places or more, both columns' denominators are equal over all.
        drawn.append(rank(queries, database[order], shuffled, 8).stable[None].mean())
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert np.mean(drawn) == pytest.approx(wanted["map"]["expected"], abs=4 * error)
    assert wanted["map"]["pessimistic"] < min(drawn)
    assert max(drawn) < wanted["map"]["optimistic"]


def untied(seed):
    """Forty distances that all differ, their targets, and scores in the same order."""
    random = np.random.default_rng(seed)
    distances = random.permutation(65)[:40]
    relevant = random.random(40) < 0.3
    return distances, relevant.astype(int), 65.0 - distances


def test_without_ties_it_is_sklearn_s_average_precision():
    from sklearn.metrics import average_precision_score

    for seed in range(5):
        distances, relevant, scores = untied(seed)
        found = measured(distances, relevant, bits=64)["map"]
        assert found["expected"] == pytest.approx(average_precision_score(relevant, scores))
        assert found["optimistic"] == pytest.approx(found["pessimistic"])
        assert found["deephash_pytorch"] == pytest.approx(found["expected"])


def test_without_ties_it_is_torchmetrics_retrieval():
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    for seed in range(5):
        distances, relevant, scores = untied(seed)
        found = measured(distances, relevant, (10, 40), bits=64)
        # A score of 0 would count as not retrieved there.
        scores, kind = torch.tensor(scores / 66), torch.tensor(relevant)
        given = scores, kind, torch.zeros(40, dtype=torch.int64)
        assert found["map"]["expected"] == pytest.approx(retrieval.RetrievalMAP()(*given).item())
        assert found["precision@10"] == pytest.approx(
            retrieval.RetrievalPrecision(top_k=10)(*given).item()
        )
        # Its mAP@k divides by the hits within k, as the other code's column does.
        wanted = retrieval.RetrievalMAP(top_k=10)(*given).item()
        assert found["map@10"]["deephash_pytorch"] == pytest.approx(wanted)


def test_ball_and_curve_by_hand():
    # Within radius 2: of the first query two items, one relevant; of the second none.
    database = codes_at([1, 2, 8, 9])
    queries = np.concatenate([codes_at([0]), codes_at([16])])
    found = evaluate_retrieval(queries, database, np.array([1, 1]), np.array([1, 0, 1, 0]), BITS)
    assert found["precision_within"] == {
        "radius": 2, "precision": 0.25, "queries_that_find_nothing": 1
    }  # fmt: skip
    curve = found["curve"]
    assert curve["precision"][0] is None  # nobody finds anything
    assert curve["precision"][1:3] == [1.0, 0.5]
    assert curve["recall"][:3] == [0.0, 0.25, 0.25]
    assert (curve["precision"][-1], curve["recall"][-1]) == (0.5, 1.0)


def test_the_other_code_s_column_depends_on_the_database_s_order():
    columns = [
        measured([1, 1], relevant)["map"]["deephash_pytorch"] for relevant in ([1, 0], [0, 1])
    ]
    assert columns == [1.0, 0.5]


REFUSED = {
    "one class": ([1], [1, 1], "of one class"),
    "targets of two kinds": ([1], [[1, 0], [0, 1]], "both as classes"),
    "probabilities": ([1], [[0.5, 0.5], [0.1, 0.9]], "0 or 1"),
    "a target too few": ([1], [1, 0, 1], "one target for each code"),
}


def test_targets_that_cannot_work_are_refused():
    for case in REFUSED:
        queries, database, words = REFUSED[case]
        with pytest.raises(DataError, match=words):
            evaluate_retrieval(
                codes_at([0]), codes_at([0, 1]), np.array(queries), np.array(database), BITS
            )


def test_codes_and_places_that_cannot_work_are_refused():
    relevance = Relevance(np.array([1]), np.array([1, 0]))
    with pytest.raises(DataError, match="of 8 bits"):
        rank(codes_at([0]), codes_at([0, 1]), relevance, 8)
    rankings = rank(codes_at([0]), codes_at([0, 1]), relevance, BITS)
    with pytest.raises(ConfigurationError, match="k is 0"):
        figures(rankings, [0])
    with pytest.raises(ConfigurationError, match="radius is -1"):
        figures(rankings, radius=-1)


@pytest.mark.full
def test_a_cifar_ranking_takes_seconds_and_little_memory():
    queries, database = random_codes(1000, 64, 0), random_codes(54_000, 64, 1)
    targets = np.arange(54_000) % 10
    tracemalloc.start()
    began = time.process_time()
    found = evaluate_retrieval(queries, database, targets[:1000], targets, 64, [100, 5000])
    seconds = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["map"]["expected"] == pytest.approx(0.1, abs=0.005)  # chance
    assert seconds < 30
    assert peak < 100e6
