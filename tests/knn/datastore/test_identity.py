"""Datastores of another model and indexes of another datastore are refused, or told of where that is allowed."""

from dataclasses import fields
from typing import get_type_hints

import pytest

from fairseq.errors import MismatchError
from fairseq.knn.config import KNNConfig, KNNSettings
from fairseq.knn.datastore.identity import differences, require_model
from fairseq.models.protocol import ModelIdentity
from tests.builders.small_store import WIDTH


@pytest.mark.parametrize("name", ["vocabulary_size", "dictionary_sha256", "weights_sha256", "key_type"])
@pytest.mark.pitfall(2)
def test_store_of_another_model_or_dictionary(manifest, caplog, name):
    own, other = manifest.model, ModelIdentity(**{name: 7 if name == "vocabulary_size" else "other"})
    require_model("d", own, ModelIdentity("d" * 64, "w" * 64, 50000, WIDTH, "last_ffn_input"))
    require_model("d", own, None)
    with pytest.raises(MismatchError, match=r"d was written with .* but this run has (7|other)"):
        require_model("d", own, other)
    require_model("d", own, other, allow_mismatch=True)
    assert "going on" in caplog.text
    with pytest.raises(MismatchError, match="width 16, but this run has 17"):
        require_model("d", own, ModelIdentity(key_dimension=17), allow_mismatch=True)


def test_what_either_side_does_not_know_does_not_differ():
    known = ModelIdentity("d" * 64, "w" * 64, 40, 16, "last_ffn_input")
    assert differences(known, ModelIdentity()) == differences(ModelIdentity(), known) == differences(known, known) == {}
    other = ModelIdentity("e" * 64, None, 41, 16)
    found = differences(known, other)
    assert list(found) == ["vocabulary_size", "dictionary_sha256"]
    assert found["dictionary_sha256"].startswith("dictionary dddddddddddd, but this run has eeeeeeeeeeee; ")


def test_every_setting_of_neighbours_is_a_keyword_that_a_type_checker_knows():
    kinds = get_type_hints(KNNConfig)
    names = {field.name for field in fields(KNNConfig)} - {"knnlm", "dstore_filename", "indexfile"}
    assert get_type_hints(KNNSettings) == {name: kinds[name] for name in names} | {"temperature": kinds["knn_temp"]}


def test_values_of_no_known_tokenizer_are_not_taken_for_a_models() -> None:
    """A datastore of another tool's ids has the right width, and every word wrong."""
    silent, of_tokens = (
        ModelIdentity(key_dimension=WIDTH),
        ModelIdentity(key_dimension=WIDTH, tokenizer_sha256="t" * 64),
    )
    with pytest.raises(MismatchError, match="d does not say which tokenizer its values are of"):
        require_model("d", silent, of_tokens)
    require_model("d", silent, of_tokens, allow_mismatch=True)
    require_model("d", ModelIdentity(dictionary_sha256="d" * 64), of_tokens)
    require_model("d", silent, ModelIdentity(key_dimension=WIDTH))
