"""Hints at another name: for slips of the hand, not for what means something else."""

import pytest

from fairseq.errors import did_you_mean
from tests.cli.test_flags import FLAGS

# Flags of fairseq 0.12's commands that are none of ours, or of some of our commands only.
OF_FAIRSEQ = (
    "aim-repo aim-run-hash align-suffix alignfile all-gather-list-size amp amp-batch-retries amp-init-scale "
    "amp-scale-window azureml-logging batch-size-valid beam-mt bpe broadcast-buffers bucket-cap-mb "
    "checkpoint-shard-count checkpoint-suffix combine-val combine-valid-subsets constraints continue-once cpu-offload "
    "curriculum data-buffer-size ddp-comm-hook debug-param-names decoding-format device-id distributed-backend "
    "distributed-init-distributed-init-method distributed-no-spawn distributed-num-procs distributed-port "
    "distributed-rank distributed-world-size diverse-beam-groups diverse-beam-strength diversity-rate ema-decay "
    "ema-fp32 ema-seed-model ema-start-update ema-update-freq empty-cache-freq eos-token fast-stat-sync "
    "find-unused-parameters finetune-from-model fix-batches-to-gpus fixed-validation-seed fp16-no-flatten-grads "
    "fp16-scale-tolerance fp32-reduce-scatter gradient-as-bucket-view grouped-shuffling heartbeat-timeout ignore-case "
    "ignore-unused-valid-subsets iter-decode-eos-penalty iter-decode-force-max-iter iter-decode-max-iter "
    "iter-decode-with-beam iter-decode-with-external-reranker joined-dictionary keep-interval-updates-pattern "
    "lenpen-mt lm-path lm-weight load-checkpoint-on-all-dp-ranks local-rank localsgd-frequency logdir "
    "match-source-len max-len-a-mt max-len-b-mt max-sentences-valid max-valid-steps memory-efficient-bf16 "
    "model-parallel-size no-beamable-mm no-early-stop no-reshard-after-forward no-seed-provided "
    "not-fsdp-flatten-parameters nprocs-per-node nval nwordstgt on-cpu-convert-precision optimizer-overrides order "
    "pipeline-balance pipeline-checkpoint pipeline-chunks pipeline-decoder-balance pipeline-decoder-devices "
    "pipeline-devices pipeline-encoder-balance pipeline-encoder-devices pipeline-model-parallel plasma-path "
    "post-process print-alignment print-step profile quantization-config-path quiet ref replace-unk "
    "required-seq-len-multiple reset-logging retain-dropout retain-dropout-modules retain-iter-history sacrebleu "
    "save-async score-reference scoring sentence-avg sentence-bleu skip-remainder-batch slowmo-base-algorithm "
    "slowmo-momentum source-lang stop-time-hours store-ema suppress-crashes sys target-lang tgtdict "
    "threshold-loss-scale thresholdtgt tokenizer tpu update-epoch-batch-itr update-ordered-indices-seed use-bmuf "
    "use-plasma-view use-sharded-state validate-after-updates validate-interval-updates wandb-project "
    "write-checkpoints-asynchronously zero-sharding"
)


@pytest.mark.parametrize("command", FLAGS)
def test_a_flag_of_fairseqs_that_there_is_not_is_like_none_of_ours(command: str) -> None:
    absent = [f"--{name}" for name in OF_FAIRSEQ.split() if f"--{name}" not in FLAGS[command]]
    assert len(absent) > 100
    assert {name: did_you_mean(name, FLAGS[command]) for name in absent} == dict.fromkeys(absent, "")


# A letter that is another, missing, doubled, swapped with the next one, or an underline.
SLIPS = [
    ("--max-token", "--max-tokens"),
    ("--max-tokns", "--max-tokens"),
    ("--max_tokens", "--max-tokens"),
    ("--maxtokens", "--max-tokens"),
    ("--max-tok", "--max-tokens"),
    ("--mx-tokens", "--max-tokens"),
    ("--Max-Tokens", "--max-tokens"),
    ("--contxt-windw", "--context-window"),
    ("--lmda", "--lmbda"),
    ("--lambda", "--lmbda"),
    ("--knlm", "--knnlm"),
    ("--dstore-filenmae", "--dstore-filename"),
    ("--indexfiles", "--indexfile"),
    ("--sofmtax-batch", "--softmax-batch"),
    ("--ouput-word-probs", "--output-word-probs"),
    ("--prob", "--probe"),
]


@pytest.mark.parametrize(("typed", "meant"), SLIPS)
def test_a_slip_of_the_hand_is_near(typed: str, meant: str) -> None:
    assert did_you_mean(typed, FLAGS["fairseq-eval-lm"]) == f"; did you mean {meant}?"


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("--bpe", "--beam"),
        ("--tokenizer", "--dstore-size"),
        ("tpu", "cpu"),
        ("a", "b"),
        ("lr", "lt"),
        ("max-len-a", "max-len-b"),
        ("min-len", "max-len"),
        ("--max", "--max-tokens"),
        ("--save-interval", "--save-interval-s"),
        ("update-freq", "ema-update-freq"),
        ("", "a"),
        ("transformer_lm_big", "transformer_lm_gbw"),
    ],
)
def test_another_name_is_far(typed: str, known: str) -> None:
    assert did_you_mean(typed, [known]) == did_you_mean(known, [typed]) == ""


def test_the_nearest_of_several_is_named() -> None:
    assert did_you_mean("transformer_lm_wiki13", ["transformer_lm_wiki23x", "transformer_lm_wiki103"]).endswith("103?")
    assert did_you_mean("--dec", ["--decoder-layers", "--decode"]) == "", "two go on like that"
