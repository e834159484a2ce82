"""A model loaded from Python scores as fairseq-eval-lm does, shows neighbours, and continues prompts."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import ConfigError
from fairseq.hub import LanguageModelHub, from_pretrained
from fairseq.hub.texts import Texts
from fairseq.text.pipeline import TextPipeline
from knnlm import KNN, KNN_Dstore
from tests.builders.cases import Artefacts, Call
from tests.builders.hub_model import LMBDA, K, load
from tests.oracles.knn import knn_probability, nearest

pytestmark = pytest.mark.usefixtures("own_cache")

# The same float32 sums in rows of another number or length.
OTHER_ROWS = 1e-5
# Of distances computed in float32.
DISTANCES = 1e-4


def text_of(lm: LanguageModelHub, artefacts: Artefacts, split: str = "test") -> str:
    return lm.decode(MMapIndexedDataset(artefacts.data / split).tokens.tolist())


def evaluate(call: Call, good: Artefacts, tmp_path: Path, *more: object) -> dict[str, Any]:
    """Returns what the command says of the test split."""
    words = [good.data, "--path", good.checkpoint, "--gen-subset", "test", "--cpu", "--log-format", "none"]
    outcome = call("fairseq-eval-lm", *words, "--overwrite", "--results-path", tmp_path / "r.json", *more)
    assert outcome.code == 0, outcome.err
    record: dict[str, Any] = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    return record


def neighbour_flags(good: Artefacts) -> list[object]:
    files = ["--dstore-filename", good.store, "--indexfile", good.index]
    return ["--knnlm", *files, "--k", K, "--probe", 4, "--lmbda", LMBDA]


@pytest.mark.parametrize("window", [0, 5, 12])
def test_a_long_text_scores_as_the_command_says(
    lm: LanguageModelHub, knn_lm: LanguageModelHub, artefacts: Artefacts, call: Call, tmp_path: Path, window: int
) -> None:
    text = text_of(lm, artefacts)
    alone = evaluate(call, artefacts, tmp_path, "--context-window", window)
    mixed = evaluate(call, artefacts, tmp_path, "--context-window", window, *neighbour_flags(artefacts))
    scored = knn_lm.score(text, context_window=window)
    assert len(scored) == alone["targets"] == mixed["targets"] > 10 * lm.longest_row
    assert lm.score(text, context_window=window).loss == pytest.approx(alone["loss_base2"], abs=OTHER_ROWS)
    assert scored.loss == pytest.approx(mixed["loss_base2"], abs=OTHER_ROWS)
    assert scored.perplexity == pytest.approx(mixed["ppl"], rel=OTHER_ROWS)
    assert scored.at(0).loss == pytest.approx(alone["loss_base2"], abs=OTHER_ROWS)


def test_the_mixture_is_of_the_two(knn_lm: LanguageModelHub, lm: LanguageModelHub) -> None:
    text = "w1 w2 w3 w9\nw4 w5"
    scored, alone = knn_lm.score(text), lm.score(text)
    assert scored.words == ("w1", "w2", "w3", "w9", "</s>", "w4", "w5", "</s>")
    assert torch.equal(scored.lm_scores, alone.positional_scores)
    assert scored.knn_scores is not None
    expected = (1 - LMBDA) * scored.lm_scores.exp() + LMBDA * scored.knn_scores.exp()
    assert scored.positional_scores.exp().numpy() == pytest.approx(expected.numpy(), rel=1e-12)
    assert scored.at(1).positional_scores.tolist() == scored.knn_scores.tolist()
    assert alone.knn_scores is None
    with pytest.raises(ConfigError, match="load the model with knn="):
        alone.at(0.5)
    with pytest.raises(ConfigError, match="from 0 to 1, but is 2"):
        scored.at(2)


def test_texts_together_score_as_each_alone(knn_lm: LanguageModelHub) -> None:
    """Short ones are rows of one batch, by length; long ones are cut; the order given comes back."""
    long = " ".join(f"w{i % 7}" for i in range(50))
    texts = ["w1 w2 w3 w4 w5", "w1", long, "", "w30 w31 w32", f"{long} w3"]
    together = knn_lm.score(texts)
    assert [len(score) for score in together] == [6, 2, 51, 1, 4, 52]
    for text, score in zip(texts, together, strict=True):
        alone = knn_lm.score(text)
        assert score.tokens.tolist() == knn_lm.encode(text).tolist()
        assert score.positional_scores.numpy() == pytest.approx(alone.positional_scores.numpy(), abs=OTHER_ROWS)


def test_each_token_sees_all_before_it_where_the_row_has_room(lm: LanguageModelHub) -> None:
    """Whatever the window: a text that fits one row is one row."""
    text = " ".join(f"w{i}" for i in range(lm.longest_row - 1))
    assert lm.score(text, 0).total == lm.score(text, 12).total
    prefix = lm.score("w0 w1 w2")
    assert lm.score(text).positional_scores[:3].numpy() == pytest.approx(
        prefix.positional_scores[:3].numpy(), abs=OTHER_ROWS
    )


def test_numbers_of_fairseqs_hub(golden_dir: Path) -> None:
    """What ``.score`` of fairseq 0.12 gave for the same checkpoint."""
    lm = from_pretrained(golden_dir, "checkpoint_best.pt", golden_dir / "data-bin")
    scores = -6.3919, -7.0854, -2.73051, -3.91437, -1.93082, -1.75145, -5.21644, -0.4136, -1.55606
    text = "the film was released in the United States ."
    for score in (lm.score(text), lm.score(text, eos=False), lm.score([text, "the cat"], eos=False)[0]):
        assert score["tokens"].tolist() == [4, 154, 14, 246, 9, 4, 107, 192, 6]
        assert score["positional_scores"].tolist() == pytest.approx(scores, abs=2e-5)
        assert score["score"].item() == pytest.approx(-3.4433947, abs=2e-5)
    whole, words = lm.score(text), lm.score(text, eos=False)
    assert (whole.words[-1], words.words[-1]) == ("</s>", ".")
    assert words.total == pytest.approx(sum(scores), abs=1e-4)
    assert words.perplexity == pytest.approx(math.exp(3.4433947), rel=1e-4)
    # A word of the dictionary before the end, and the end: only the latter goes.
    assert lm.score("the </s>", eos=False).tokens.tolist() == [4, 2]
    assert math.isnan(lm.score("", eos=False).perplexity)


def test_without_the_end_neighbours_have_none_either(knn_lm: LanguageModelHub) -> None:
    whole, words = knn_lm.score("w1 w2 w3"), knn_lm.score("w1 w2 w3", eos=False)
    assert whole.knn_scores is not None and words.knn_scores is not None
    assert words.knn_scores.tolist() == whole.knn_scores.tolist()[:3]
    assert words.lm_scores.tolist() == whole.lm_scores.tolist()[:3]
    assert words.at(1).positional_scores.tolist() == words.knn_scores.tolist()


def test_scores_have_what_the_users_of_fairseq_look_for(lm: LanguageModelHub) -> None:
    score = lm.score("w1 w2 nowhere")
    log_p = score.positional_scores.tolist()
    assert len(log_p) == 4 and score.total == pytest.approx(sum(log_p))
    assert score["positional_scores"].tolist() == log_p[:3]  # fairseq's has no </s> of the end
    assert score["score"].item() == pytest.approx(sum(log_p[:3]) / 3)
    assert score["tokens"].dtype == torch.int64 and score["tokens"].tolist() == lm.encode("w1 w2 nowhere").tolist()[:3]
    assert score.num_unknown == 1
    assert repr(score).startswith("Score(4 tokens, 1 of them unknown, perplexity ")
    with pytest.raises(KeyError, match="alignment"):
        score["alignment"]
    lines = score.table().splitlines()
    assert len(lines) == 5
    assert lines[3].split() == ["<unk>", f"{math.exp(score.positional_scores[2]):.4f}"]


WORDS = Texts(Dictionary(["a", "b", "<c"], [3, 2, 1]), TextPipeline())


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6]), max_size=20))
def test_decoding_is_undone_by_encoding(ids: list[int]) -> None:
    tokens = [idx for idx in ids if idx != 0] + [2]
    assert WORDS.encode(WORDS.decode(tokens)).tolist() == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", [2]), ("\n", [2]), ("a\r\nb\r", [4, 2, 5, 2]), ("  a\t b ", [4, 5, 2]), ("a\n\n", [4, 2, 2]), ("z", [3, 2])],
)
def test_a_text_is_encoded_as_its_file_is_binarised(text: str, tokens: list[int]) -> None:
    assert WORDS.encode(text).tolist() == tokens


# Neighbours


def test_fairseqs_way_to_ids_leaves_the_models_words_as_they_are(artefacts: Artefacts) -> None:
    own = load(artefacts)
    before = own.score("zzyzx").total
    assert own.dictionary.encode_line("w1 zzyzx").tolist() == own.encode("w1 zzyzx").tolist()
    assert len(own.dictionary) == 40 and own.score("zzyzx").total == before
    assert own.score("w1 zzyzx").words == ("w1", "<unk>", "</s>")
    with pytest.raises(ConfigError, match=r"^add_symbol\('zzyzx'\) would change"):
        own.dictionary.add_symbol("zzyzx")


def test_neighbours_are_the_nearest_rows(knn_lm: LanguageModelHub, artefacts: Artefacts, tmp_path: Path) -> None:
    """Against a search by hand for the text's own first line, whose context vectors come from the model itself."""
    text = "w1 w2 w3 w9 w4"
    keys = np.fromfile(f"{artefacts.store}_keys.npy", np.float32).reshape(-1, 16)
    values = np.fromfile(f"{artefacts.store}_vals.npy", np.int64)
    tokens = MMapIndexedDataset(artefacts.data / "train").tokens
    source = torch.tensor([[2, *knn_lm.encode(text).tolist()[:-1]]])
    with torch.inference_mode():
        queries = knn_lm.models[0](source, 0).ffn_input_BSC[0].numpy()
    found = knn_lm.neighbours(text, k=K, words=3)
    assert [near.word for near in found] == ["w1", "w2", "w3", "w9", "w4", "</s>"]
    assert repr(found[0]) == f"Neighbourhood('w1', {K} neighbours, {found[0].hits} of this word)"
    scores = knn_lm.score(text).knn_scores
    assert scores is not None
    for query, near, token, log_p in zip(queries, found, knn_lm.encode(text).tolist(), scores.tolist(), strict=True):
        distances, ids = nearest(keys, query, K)
        assert [n.row for n in near.neighbours] == ids.tolist()
        assert [n.distance for n in near.neighbours] == pytest.approx(distances, rel=DISTANCES)
        assert [n.word for n in near.neighbours] == [knn_lm.dictionary[v] for v in values[ids]]
        assert near.hits == (values[ids] == token).sum()
        assert math.exp(log_p) == pytest.approx(knn_probability(distances, ids, values[ids], token, 1.0), abs=DISTANCES)
        for row, shown in zip(ids.tolist(), near.neighbours, strict=True):
            at = 8 + row  # the first block of 8 has no full context of 8 before it
            assert shown.before == " ".join(knn_lm.dictionary[i] for i in tokens[at - 3 : at])
            assert shown.after == " ".join(knn_lm.dictionary[i] for i in tokens[at + 1 : at + 4])


def test_a_long_text_has_the_neighbours_of_every_token(knn_lm: LanguageModelHub) -> None:
    text = " ".join(f"w{i % 9}" for i in range(40))
    assert [near.word for near in knn_lm.neighbours(text, k=2)] == list(knn_lm.score(text).words)


def test_an_open_datastore_is_joined_too(artefacts: Artefacts, knn_lm: LanguageModelHub) -> None:
    store = KNN_Dstore.open(artefacts.store, artefacts.index, k=K, probe=4, lmbda=LMBDA)
    lm = load(artefacts, knn=store)
    assert lm.score("w1 w2").total == knn_lm.score("w1 w2").total
    lm.lmbda = 0.0
    assert lm.score("w1 w2").total == lm.score("w1 w2").at(0).total


def test_rows_without_their_text_are_shown_without_it(artefacts: Artefacts, caplog: pytest.LogCaptureFixture) -> None:
    knn = KNN(artefacts.store, artefacts.index, k=2, probe=4, data=artefacts.data / "valid")
    near = load(artefacts, knn=knn).neighbours("w1")[0].neighbours[0]
    assert near.before is near.after is None
    assert str(near).endswith(near.word)
    assert "but the rows were written from" in caplog.text
    moved = KNN(artefacts.store, artefacts.index, k=2, probe=4, data=artefacts.data)
    assert load(artefacts, knn=moved).neighbours("w1")[0].neighbours[0].before is not None


# Texts behind prompts


def test_greedy_takes_the_most_probable_word(knn_lm: LanguageModelHub) -> None:
    """By scoring every word behind what there is, one at a time."""
    text, expected = "w3 w4", "w3 w4"
    words = [word for word in knn_lm.dictionary.symbols if word not in ("<s>", "<pad>", "</s>")]
    for _ in range(3):
        scores = knn_lm.score([f"{expected} {word}" for word in words])
        best = max(zip(words, scores, strict=True), key=lambda pair: float(pair[1].positional_scores[-2]))
        expected = f"{expected} {best[0]}"
    assert knn_lm.sample(text, max_len_b=3, min_len=3) == expected


def test_draws_are_repeated_by_their_seed_and_differ_without(knn_lm: LanguageModelHub) -> None:
    draw = {"sampling": True, "max_len_b": 8}
    first = knn_lm.sample(["w1", "w2\n"], seed=5, **draw)
    assert first == knn_lm.sample(["w1", "w2\n"], seed=5, **draw)
    assert len({knn_lm.sample("w1", seed=seed, **draw) for seed in range(5)}) > 1
    assert first[0].startswith("w1")
    assert first[1].startswith("w2\n")
    best, second = knn_lm.generate(["w1"], beam=2, nbest=2, max_len_b=3)[0]
    assert best.score >= second.score


# What is refused


@pytest.mark.parametrize(
    ("ask", "expect"),
    [
        (lambda lm: lm.score("w1", context_window=16), "context_window must be from 0 to 15"),
        (lambda lm: lm.score("w1", context_window=-1), "context_window must be from 0 to 15"),
        (lambda lm: lm.score("w1", context_window="x"), "context_window must be a whole number"),
        (lambda lm: lm.score([3]), "a text must be a string"),
        (lambda lm: lm.score(3), "a text must be a string"),
        (lambda lm: lm.score(lm.encode("w1")), "lm.decode(ids) makes a text of ids"),
        (lambda lm: lm.encode(["w1", "w2"]), "give them one by one here"),
        (lambda lm: lm.neighbours(["w1", "w2"]), "give them one by one here"),
        (lambda lm: lm.decode([4, 40]), "from 0 to 39, but is 40"),
        (lambda lm: lm.decode("a"), "ids must be whole numbers in a row, but are 'a'; lm.encode(text)"),
        (lambda lm: lm.decode("12"), "ids must be whole numbers in a row, but are '12'"),
        (lambda lm: lm.decode([[4, 5]]), "ids must be whole numbers in a row"),
        (lambda lm: lm.decode(4), "ids must be whole numbers in a row"),
        (lambda lm: lm.neighbours("w1", k=0), "k must be a whole number from 1 on"),
        (lambda lm: lm.neighbours("w1", words=-1), "words must be at least 0"),
        (lambda lm: lm.to("nowhere"), "device must be cpu, or cuda"),
        (lambda lm: lm.sample("w1", beams=4), "did you mean beam?"),
        (lambda lm: lm.sample("w1", beam=0), "beam must be at least 1"),
        (lambda lm: lm.sample("w1 " * 30), "a prompt must have at most"),
        (lambda lm: lm.sample("w1", seed="x"), "seed must be a whole number"),
        (lambda lm: setattr(lm, "lmbda", 1.5), "lmbda must be from 0 to 1, but is 1.5"),
        (lambda lm: lm.sample(7), "a text must be a string"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(knn_lm: LanguageModelHub, ask: Any, expect: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(knn_lm)
    assert expect in str(caught.value)
    assert "\n" not in str(caught.value)


def test_neighbours_need_a_datastore(lm: LanguageModelHub) -> None:
    with pytest.raises(ConfigError, match=r"load the model with knn=KNN"):
        lm.neighbours("w1")
