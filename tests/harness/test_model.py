"""The harness's model, against the harness's own ``hf`` without neighbours, and against brute force with them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.utils import get_rolling_token_windows

from fairseq.errors import CheckpointError, ConfigError, FairseqError
from fairseq.harness.model import HarnessModel, one_model
from fairseq.hub import LanguageModelHub
from tests.builders.cases import Artefacts
from tests.builders.harness_model import DOCUMENTS, LONGEST, TinyModel
from tests.builders.harness_tasks import CHOICES, write_tasks

PAIRS = [(query, choice) for query, choices, _ in CHOICES for choice in choices]
PAIRS += [("The children ", "played"), ("The children \n", "  played"), ("", "A short text"), ("x" * 60, " river")]
HOW = {"until": ["e "], "max_gen_toks": 10, "do_sample": False}


def asked(kind: str, *args: Any) -> Instance:
    """Returns a request of the harness."""
    return Instance(request_type=kind, doc={}, arguments=args, idx=0)


def pairs() -> list[Instance]:
    return [asked("loglikelihood", *pair) for pair in PAIRS]


def documents() -> list[Instance]:
    return [asked("loglikelihood_rolling", document) for document in (*DOCUMENTS, "")]


def prompts() -> list[Instance]:
    return [asked("generate_until", document[:40], HOW) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def mixed(llama: TinyModel) -> HarnessModel:
    return HarnessModel(**llama.args, batch_size=3)


@pytest.fixture(scope="module")
def hf(llama: TinyModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(llama.path), device="cpu", dtype="float32", batch_size=3)


def test_without_neighbours_answers_are_those_of_hf(llama: TinyModel, hf: Any) -> None:
    alone = HarnessModel(path=str(llama.path), device="cpu")
    for one, other in zip(alone.loglikelihood(pairs()), hf.loglikelihood(pairs()), strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-5) and one[1] == other[1]
    assert alone.loglikelihood_rolling(documents()) == pytest.approx(hf.loglikelihood_rolling(documents()), rel=1e-6)
    assert alone.generate_until(prompts()) == hf.generate_until(prompts())


def test_a_tokenizer_that_begins_each_text_is_treated_as_hf_does(tmp_path: Path) -> None:
    """Llama's, with ``<s>`` in front: of contexts, of documents and of prompts."""
    from lm_eval.models.huggingface import HFLM

    from tests.builders.tiny_llama import write_tiny_llama

    path = write_tiny_llama(tmp_path / "model", max_position_embeddings=LONGEST, add_bos=True)
    for add_bos in (None, True, False):
        ours = HarnessModel(path=str(path), device="cpu", add_bos_token=add_bos)
        other = HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=2, add_bos_token=add_bos)
        assert ours.prefix_token_id == other.prefix_token_id and ours.eot_token_id == other.eot_token_id
        assert ours.tok_encode("<s>The") == other.tok_encode("<s>The")
        for one, two in zip(ours.loglikelihood(pairs()), other.loglikelihood(pairs()), strict=True):
            assert one[0] == pytest.approx(two[0], rel=1e-5) and one[1] == two[1]
        found, expected = ours.loglikelihood_rolling(documents()), other.loglikelihood_rolling(documents())
        assert found == pytest.approx(expected, rel=1e-6)
        assert ours.generate_until(prompts()) == other.generate_until(prompts())


def test_settings_that_the_harness_asks_for(mixed: HarnessModel, hf: Any) -> None:
    for name in ("eot_token_id", "prefix_token_id", "max_length", "max_gen_toks", "tokenizer_name", "batch_size"):
        assert getattr(mixed, name) == getattr(hf, name), name
    assert mixed.device == torch.device("cpu")
    assert mixed.tok_decode(mixed.tok_encode("a river")) == "a river"


def test_whole_documents_with_neighbours_equal_brute_force(llama: TinyModel, mixed: HarnessModel) -> None:
    """Word perplexity of the harness, float64 over the harness's own windows."""
    total, words = 0.0, 0
    for document in DOCUMENTS:
        for read, targets in get_rolling_token_windows(llama.encode(document), mixed.prefix_token_id, LONGEST, 1):
            log_p_TV = llama.log_p(read)[-len(targets) :]
            total += float(log_p_TV[np.arange(len(targets)), targets].sum())
        words += len(document.split())
    found = sum(mixed.loglikelihood_rolling(documents()))
    assert math.exp(-found / words) == pytest.approx(math.exp(-total / words), rel=1e-6)


def test_the_model_alone_comes_out_of_the_same_passes(
    llama: TinyModel, mixed: HarnessModel, hf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed.loglikelihood(pairs())
    mixed.loglikelihood_rolling(documents())
    alone = mixed.alone()
    with monkeypatch.context() as patch:
        patch.setattr(mixed.opened.model, "forward", None)  # a call would be an error
        found, whole = alone.loglikelihood(pairs()), alone.loglikelihood_rolling(documents())
    assert [pair[0] for pair in found] == pytest.approx([pair[0] for pair in hf.loglikelihood(pairs())], rel=1e-5)
    assert whole == pytest.approx(hf.loglikelihood_rolling(documents()), rel=1e-6)
    assert alone.generate_until(prompts()) == hf.generate_until(prompts()) != mixed.generate_until(prompts())
    new = [asked("loglikelihood", "The river", " was new")]  # what the mixture was not asked
    assert alone.loglikelihood(new)[0][0] == pytest.approx(hf.loglikelihood(new)[0][0], rel=1e-5)
    assert alone.loglikelihood(pairs()) != mixed.loglikelihood(pairs())
    assert "neighbours" in mixed.get_model_info() and alone.get_model_info()["neighbours"] is None
    assert mixed.has_neighbours and not alone.has_neighbours


@pytest.mark.slow
def test_tasks_of_the_harness_give_what_hf_gives(
    llama: TinyModel, mixed: HarnessModel, hf: Any, tmp_path: Path
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(write_tasks(tmp_path, DOCUMENTS)), include_defaults=False)
    tasks = ["tiny_choice", "tiny_documents", "tiny_texts"]

    def metrics(model: Any) -> dict[str, float]:
        found = lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0)["results"]
        numbers = {f"{task} {name}": value for task, each in found.items() for name, value in each.items()}
        return {name: value for name, value in numbers.items() if isinstance(value, (int, float))}

    with_neighbours, alone, theirs = metrics(mixed), metrics(mixed.alone()), metrics(hf)
    assert alone == pytest.approx(theirs, rel=1e-5)
    assert with_neighbours["tiny_documents bits_per_byte,none"] < alone["tiny_documents bits_per_byte,none"]


def test_one_model_is_opened_once(llama: TinyModel) -> None:
    with one_model():
        first = HarnessModel.create_from_arg_obj(llama.args, {"batch_size": 1, "device": "cuda:0", "no": None})
        args = ",".join(f"{name}={value}" for name, value in llama.args.items())
        second = HarnessModel.create_from_arg_string(args, {"batch_size": 1})
    assert second.opened is first.opened and first.has_neighbours and not second.has_neighbours
    assert HarnessModel.create_from_arg_obj(llama.args).opened is not first.opened


def test_a_chat_template_is_applied_where_there_is_one(llama: TinyModel, tmp_path: Path) -> None:
    import shutil

    talk = [{"role": "user", "content": "hello"}]
    with pytest.raises(ConfigError, match=r"--apply_chat_template needs a chat template, but .* has none"):
        HarnessModel(path=str(llama.path), device="cpu").apply_chat_template(talk)
    shutil.copytree(llama.path, tmp_path / "chat")
    template = "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n{% endfor %}"
    template += "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    template += "{% if add_generation_prompt %}> {% endif %}"
    (tmp_path / "chat/chat_template.jinja").write_text(template, encoding="utf-8")
    lm = HarnessModel(path=str(tmp_path / "chat"), device="cpu")
    assert lm.apply_chat_template(talk) == "[user] hello\n> "
    assert lm.apply_chat_template(talk, add_generation_prompt=False).startswith("[user] hello")
    assert lm.apply_chat_template([{"role": "system", "content": "be brief"}, *talk]) == "[user] hello\n> "
    assert lm.chat_template(True) == template


# A checkpoint of ours, with its words.
TEXT = "w1 w2 w3\nw4 w5\n"  # two lines


@pytest.fixture(scope="module")
def checkpoint_args(artefacts: Artefacts) -> dict[str, Any]:
    names = {"path": artefacts.checkpoint, "data": artefacts.data}
    names |= {"dstore_filename": artefacts.store, "indexfile": artefacts.index}
    given = {"k": 20, "probe": 4, "lmbda": 0.3, "knn_temp": 1, "device": "cpu"}
    return {**{name: str(value) for name, value in names.items()}, **given}


def test_documents_of_a_checkpoint_are_scored_as_from_python(
    checkpoint_args: dict[str, Any], knn_lm: LanguageModelHub
) -> None:
    """A document of one row: its first token follows ``</s>``, and each line ends in one."""
    mixed = HarnessModel(**checkpoint_args)
    scored = knn_lm.score(TEXT)
    [found] = mixed.loglikelihood_rolling([asked("loglikelihood_rolling", TEXT)])
    assert found == pytest.approx(float(scored.positional_scores.sum()), abs=1e-5)
    [alone] = mixed.alone().loglikelihood_rolling([asked("loglikelihood_rolling", TEXT)])
    assert alone != pytest.approx(found, abs=1e-3)


def test_a_continuation_is_the_rest_of_its_text(checkpoint_args: dict[str, Any], knn_lm: LanguageModelHub) -> None:
    mixed = HarnessModel(**checkpoint_args)
    [(found, _)] = mixed.loglikelihood([asked("loglikelihood", "w1 w2", " w3 w4")])
    scores = knn_lm.score("w1 w2 w3 w4").positional_scores
    assert found == pytest.approx(float(scores[2:4].sum()), abs=1e-5)
    [(first, _)] = mixed.loglikelihood([asked("loglikelihood", "", "w1 w2")])
    assert first == pytest.approx(float(scores[:2].sum()), abs=1e-5)


def test_texts_of_a_checkpoint_go_on_as_from_python(checkpoint_args: dict[str, Any], knn_lm: LanguageModelHub) -> None:
    mixed = HarnessModel(**checkpoint_args)
    how = {"max_gen_toks": 6, "until": []}
    [text] = mixed.generate_until([asked("generate_until", "w1 w2 w3", how)])
    assert f"w1 w2 w3 {text}".strip() == knn_lm.sample("w1 w2 w3", max_len_b=6, min_len=0).strip()


def test_what_is_of_hugging_face_models_is_refused(checkpoint_args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="add_bos_token and prefix_token_id are of a Hugging Face model"):
        HarnessModel(**checkpoint_args, add_bos_token=True)
    with pytest.raises(ConfigError, match=r"max_length must be at most 16, .* but is 99"):
        HarnessModel(**checkpoint_args, max_length=99)


def test_what_the_model_has_no_room_for_is_refused(llama: TinyModel) -> None:
    with pytest.raises(ConfigError, match=rf"max_length must be at most {LONGEST}, .* but is 100"):
        HarnessModel(path=str(llama.path), device="cpu", max_length=100)
    with pytest.raises(ConfigError, match=r"prefix_token_id must be below .* but is 1000000"):
        HarnessModel(path=str(llama.path), device="cpu", prefix_token_id=1000000)


def test_code_of_a_model_is_run_where_it_is_trusted(llama: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trusted = list[bool]()
    for loader in (AutoModelForCausalLM, AutoTokenizer):
        load = loader.from_pretrained

        def noted(*args: Any, load: Any = load, **how: Any) -> Any:
            trusted.append(how["trust_remote_code"])
            return load(*args, **how)

        monkeypatch.setattr(loader, "from_pretrained", noted)
    HarnessModel(path=str(llama.path), device="cpu", trust_remote_code=True)
    HarnessModel(path=str(llama.path), device="cpu")
    assert trusted == [True, True, False, False]


def test_a_name_on_the_hub_is_its_directory(llama: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **how: str(llama.path))
    named, alone = HarnessModel(path="org/model", device="cpu"), HarnessModel(path=str(llama.path), device="cpu")
    assert named.loglikelihood(pairs()) == alone.loglikelihood(pairs())
    assert named.loglikelihood_rolling(documents()) == alone.loglikelihood_rolling(documents())


def test_behind_a_context_of_white_space_stands_what_begins_a_text(mixed: HarnessModel) -> None:
    # The harness moves the space to the continuation, and nothing is left of the context.
    [found] = mixed.loglikelihood([asked("loglikelihood", " ", "river")])
    assert found == mixed.loglikelihood([asked("loglikelihood", "", " river")])[0]


def test_what_is_not_there_is_refused(llama: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(FairseqError, match="gone"):
        HarnessModel(path=str(tmp_path / "gone"), device="cpu")
    with pytest.raises(CheckpointError, match=r"gone\.pt"):
        HarnessModel(path=str(tmp_path / "gone.pt"), device="cpu")
    with pytest.raises(ConfigError, match="is a Hugging Face model, which has no use for bpe; leave it out"):
        HarnessModel(path=str(llama.path), bpe="gpt2", device="cpu")
    other = {**llama.args, "indexfile": str(tmp_path / "gone.index")}
    with pytest.raises(FairseqError, match=r"gone\.index"):
        HarnessModel(**other)
