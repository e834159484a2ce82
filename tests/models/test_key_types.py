"""Names of key types."""

import pytest

from fairseq.errors import ConfigError
from fairseq.models.key_types import KINDS, KeyType, parse_key_type


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("last_ffn_input", "last_ffn_input"),
        ("ffn_input", "last_ffn_input"),
        ("ffn_input:-1", "last_ffn_input"),
        ("ffn_input:0", "ffn_input:0"),
        ("ffn_input:15", "ffn_input:15"),
        ("attention_input", "attention_input"),
        ("residual:-2", "residual:-2"),
        ("block_output:007", "block_output:7"),
        ("final_norm", "final_norm"),
    ],
)
def test_each_vector_has_one_name(typed: str, recorded: str) -> None:
    assert parse_key_type(typed).name == recorded
    assert parse_key_type(recorded).name == recorded


@pytest.mark.parametrize("kind", KINDS)
def test_layers_count_from_0_and_the_last_has_no_number(kind: str) -> None:
    for number in range(3):
        assert KeyType(kind, number).of(3) == KeyType(kind, number - 3).of(3)
    assert KeyType(kind, 1).of(3).layer == 1
    assert KeyType(kind, 2).of(3) == KeyType(kind, -1).of(3) == KeyType(kind)


@pytest.mark.parametrize("number", [3, -4])
def test_a_layer_that_is_not_there_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=rf"names layer {number}, but the model has 3 layers; give .* 0 to 2"):
        KeyType("residual", number).of(3)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("fnn_input", "did you mean ffn_input"),
        ("", "must be one of last_ffn_input, ffn_input"),
        ("last_ffn_input:2", "must be one of"),
        ("ffn_input:", "must end in the number of a layer"),
        ("ffn_input:x", "must end in the number of a layer"),
        ("ffn_input:1:2", "must end in the number of a layer"),
        ("final_norm:1", "final_norm belongs to no layer"),
    ],
)
def test_other_names_are_refused(typed: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_key_type(typed)
