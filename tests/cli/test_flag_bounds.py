"""Numbers that make no sense are refused by the flag, in every command that has it; the least that does is not.

The table is written by hand from what each flag means: at least one token, layer or shard; no negative weight.
"""

import dataclasses
from typing import get_type_hints

import pytest

from fairseq.config.flags import flag_fields, flag_name, resolve
from fairseq.errors import ConfigError
from tests.cli.test_flags import FLAGS, groups_of

AT_LEAST = {
    1: "--max-tokens --max-sentences --softmax-batch --required-batch-size-multiple --num-shards --tokens-per-sample"
    " --beam --nbest --k --probe --dstore-size --dimension --sample --neighbours --ncentroids --code-size"
    " --train-sample --num-keys-to-add-at-a-time --cache-size --workers --padding-factor --log-interval"
    " --fp16-scale-window --update-freq --save-interval --validate-interval --max-tokens-valid --t-mult --force-anneal"
    " --total-num-update --decoder-layers --decoder-embed-dim --decoder-input-dim --decoder-output-dim"
    " --decoder-ffn-embed-dim --decoder-attention-heads --adaptive-input-cutoff --adaptive-input-factor"
    " --adaptive-softmax-cutoff --adaptive-softmax-factor --max-target-positions --drift-warning",
    0: "--shard-id --context-window --prefix-size --max-len-a --max-len-b --min-len --no-repeat-ngram-size --seed"
    " --min-loss-scale --save-interval-s --starting-point --following --context --thresholdsrc --max-update --max-epoch"
    " --clip-norm --lr --weight-decay --momentum --adam-betas --adam-eps --warmup-updates --lr-shrink --power"
    " --end-learning-rate --save-interval-updates --dropout --attention-dropout --activation-dropout"
    " --adaptive-softmax-dropout --decoder-layerdrop --cache-lmbda --cache-theta --lmbda --skip-retrieval --recall",
    -1: "--nwordssrc",
}
AT_MOST = {
    1: "--lmbda --cache-lmbda --momentum --adam-betas --dropout --attention-dropout --activation-dropout"
    " --adaptive-softmax-dropout --decoder-layerdrop --sampling-topp --skip-retrieval --recall",
}
# The same name, another sense: 0 is each line at once there.
OF_ONE_COMMAND = [
    ("fairseq-interactive", "--buffer-size", 0, -1, "at least"),
    ("fairseq-score-lm", "--buffer-size", 1, -1, "at least"),
]
BOUNDS = [
    *((name, least, -1, "at least") for least, names in AT_LEAST.items() for name in names.split()),
    *((name, most, 1, "at most") for most, names in AT_MOST.items() for name in names.split()),
]


def test_a_number_beyond_what_makes_sense_is_refused_and_the_last_that_does_is_not() -> None:
    everywhere = [(prog, cls, name) for prog in FLAGS for cls in groups_of(prog) for name in flag_fields(cls)]
    tried = set[str]()
    for prog, cls, name in everywhere:
        fields = flag_fields(cls)
        required = {other: "x" for other, field in fields.items() if field.default is dataclasses.MISSING}
        for flag, bound, step, words in [*BOUNDS, *(one[1:] for one in OF_ONE_COMMAND if one[0] == prog)]:
            if flag_name(name) != flag or get_type_hints(cls)[name] in (str, str | None):  # such as a grid of values
                continue
            tried.add(flag)
            with pytest.raises(ConfigError) as caught:
                resolve(cls, required, {name: str(bound + step)})
            assert f"{flag} must be {words} {bound}, but is {bound + step}" in str(caught.value), prog
            try:
                resolve(cls, required, {name: str(bound)})
            except ConfigError as err:  # which may not go together with something else
                assert words not in str(err) or f"{flag} " not in str(err), prog
    assert tried == {flag for flag, *_ in BOUNDS} | {"--buffer-size"}


CHOICES = {
    "--dataset-impl": "mmap",
    "--sample-break-mode": "none complete complete_doc eos isolated document",
    "--effort": "quick thorough",
    "--faiss-metric-type": "l2 ip",
}


def test_words_are_the_same_in_every_command() -> None:
    tried = set[str]()
    for prog in FLAGS:
        for cls in groups_of(prog):
            for name, field in flag_fields(cls).items():
                if flag_name(name) in CHOICES:
                    tried.add(flag_name(name))
                    assert set(field.metadata["choices"]) == set(CHOICES[flag_name(name)].split()), (prog, name)
    assert tried == set(CHOICES)


def test_what_takes_no_value_is_off_unless_it_is_typed() -> None:
    """But for LayerNorm's place, which ``--no-decoder-normalize-before`` changes."""
    on = {
        (prog, name)
        for prog in FLAGS
        for cls in groups_of(prog)
        for name, field in flag_fields(cls).items()
        if field.type is bool and field.default is not False
    }
    assert on == {("fairseq-train", "decoder_normalize_before")}
