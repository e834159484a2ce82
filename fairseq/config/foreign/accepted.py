"""Flags of fairseq's that commands here do not have and take without effect; ``reading.py`` reads the table."""

from typing import NamedTuple

# Each command's letter, of which ``Family.commands`` is made.
COMMANDS = {
    "fairseq-preprocess": "p",
    "fairseq-train": "t",
    "fairseq-eval-lm": "e",
    "fairseq-generate": "g",
    "fairseq-interactive": "i",
    "fairseq-validate": "v",
}
ALL, NOT_TRAIN, READING = "ptegiv", "pegiv", "egiv"
NOTHING_IS_TRAINED = "nothing is trained here"
_GPT2 = "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe"


class Family(NamedTuple):
    """Flags of one purpose.

    Attributes:
        flags: their names, and the values that change nothing.
        commands: letters of the commands that take them.
        purpose: what they are for in fairseq.
        why: why they have no effect here; or why they are refused, and what to do.
    """

    flags: str
    commands: str
    purpose: str
    why: str


NO_EFFECT = (
    Family(
        "--distributed-rank=0 --distributed-backend=nccl --distributed-init-method= --distributed-port=-1"
        " --distributed-no-spawn --nprocs-per-node=1",
        "tegiv",
        "start of several processes",
        "torchrun, or --distributed-world-size, starts processes and tells them who they are",
    ),
    Family(
        "--distributed-world-size=1 --distributed-num-procs=1 --device-id/--local-rank=0",
        READING.replace("e", ""),
        "several processes",
        "one process computes; --num-shards and CUDA_VISIBLE_DEVICES spread the work",
    ),
    Family(
        "--ddp-comm-hook=none --bucket-cap-mb=25 --fix-batches-to-gpus --find-unused-parameters"
        " --gradient-as-bucket-view --fast-stat-sync --heartbeat-timeout=-1 --broadcast-buffers",
        "tegiv",
        "how gradients are added",
        "gradients are added once an update, in float32",
    ),
    Family("--ddp-backend=pytorch_ddp", READING, "how gradients are added", NOTHING_IS_TRAINED),
    Family(
        "--slowmo-momentum= --slowmo-base-algorithm=localsgd --localsgd-frequency=3",
        "tegiv",
        "gradients added now and then",
        "they belong to --ddp-backend slowmo, which is not here",
    ),
    Family(
        "--pipeline-balance= --pipeline-devices= --pipeline-chunks=0 --pipeline-checkpoint=never"
        " --pipeline-encoder-balance= --pipeline-encoder-devices= --pipeline-decoder-balance="
        " --pipeline-decoder-devices=",
        "tegiv",
        "a model on several GPUs",
        "they belong to --pipeline-model-parallel, which is not here",
    ),
    Family(
        "--cpu-offload --no-reshard-after-forward --fp32-reduce-scatter --use-sharded-state"
        " --not-fsdp-flatten-parameters --zero-sharding=none",
        "tegiv",
        "fully sharded training",
        "every process holds the whole model and optimizer; the numbers are the same",
    ),
    Family("--min-params-to-wrap=100000000", "t", "fully sharded training", "no model is sharded"),
    Family(
        "--empty-cache-freq=0 --all-gather-list-size=16384 --on-cpu-convert-precision --fp16-no-flatten-grads"
        " --fp16-adam-stats --use-plasma-view --plasma-path=/tmp/plasma",
        ALL,
        "memory and speed",
        "they save memory or time in fairseq, and change no number",
    ),
    Family("--data-buffer-size=10", "tegiv", "batches read ahead", "data is memory-mapped"),
    Family(
        "--load-checkpoint-on-all-dp-ranks --save-async/--write-checkpoints-asynchronously",
        "tgiv",
        "how checkpoint files are read and written",
        "every process reads the file, the first one writes it, at once",
    ),
    Family(
        "--aim-repo= --aim-run-hash= --azureml-logging --wandb-project=",
        ALL,
        "curves on Aim, Azure ML, Weights & Biases",
        "curves go to --tensorboard-logdir",
    ),
    Family("--profile --reset-logging --suppress-crashes", ALL, "NVIDIA's profiler, Hydra", "neither is used"),
    Family("--debug-param-names", "t", "names of weights in the optimizer", "nothing needs them"),
    Family(
        "--distributed-wrapper=DDP --tbmf-wrapper --global-sync-iter=50 --warmup-iterations=500 --block-momentum=0.875"
        " --block-lr=1 --use-nbm --average-sync",
        "tegi",
        "several processes in fairseq 0.9",
        "they are without effect there as well, or belong to --use-bmuf",
    ),
    Family("--lazy-load", "tegi", "old data", "data is memory-mapped"),
    Family(
        "--ema-decay=0.9999 --ema-fp32 --ema-seed-model= --ema-start-update=0 --ema-update-freq=1",
        "t",
        "a running mean of the weights",
        "they belong to --store-ema, which is not here",
    ),
    Family(
        "--lamb-betas=(0.9,0.999) --lamb-eps=1e-08 --anneal-eps --groups={} --dynamic-groups"
        " --epoch2lr={} --update2lr={} --underlying-criterion=",
        "t",
        "parts of training",
        "they belong to an --optimizer, --lr-scheduler or --criterion that is not here",
    ),
    Family(
        "--grouped-shuffling --update-epoch-batch-itr= --update-ordered-indices-seed",
        "tv",
        "order of batches",
        "batches are shuffled anew in every epoch, by --seed and its number",
    ),
    Family("--required-seq-len-multiple=1", "tv", "padding", "padding changes no number"),
    Family(
        "--train-subset=train --validate-interval=1 --validate-interval-updates=0 --validate-after-updates=0"
        " --disable-validation --curriculum=0",
        "v",
        "training",
        NOTHING_IS_TRAINED,
    ),
    Family("--post-process/--remove-bpe[=]", "v", "subwords in what is printed", "no text is printed"),
    Family("--use-old-adam", ALL, "which Adam", "there is one Adam, torch's"),
    Family("--amp-batch-retries=2", ALL, "overflow in float16", "after an overflow, the next batches are taken"),
    Family(
        "--amp --amp-init-scale=128 --amp-scale-window= --tpu --threshold-loss-scale= --fp16-scale-tolerance=0",
        NOT_TRAIN,
        "training",
        NOTHING_IS_TRAINED,
    ),
    Family("--scoring=bleu", ALL, "scores of translations", "there are no translations to score"),
    Family("--gen-subset=test --num-shards=1 --shard-id=0", "t", "splits of other commands", "--train-subset counts"),
    Family("--gen-subset=test --num-shards=1 --shard-id=0", "v", "splits of other commands", "--valid-subset counts"),
    Family("--gen-subset=test --num-shards=1 --shard-id=0 --dataset-impl=mmap", "i", "a split", "lines are continued"),
    Family("--prefix-size=0", "i", "length of prompts", "each line is its prompt"),
    Family(
        "--skip-invalid-size-inputs-valid-test --required-batch-size-multiple=8",
        "gi",
        "batches",
        "long prompts are named, and batches change no text",
    ),
    Family("--tensorboard-logdir=", "giv", "curves", "only training has curves"),
    Family(
        "--bpe-add-prefix-space --bpe-codes= --bpe-merges= --bpe-separator=@@ --bpe-vocab= --moses-no-dash-splits"
        f" --moses-no-escape --gpt2-encoder-json={_GPT2}/encoder.json --gpt2-vocab-bpe={_GPT2}/vocab.bpe"
        " --sentencepiece-alpha= --sentencepiece-enable-sampling --sentencepiece-model= --sentencepiece-model-path=",
        "ptev",
        "tokenizers, subwords",
        "they split no text here, nor in fairseq: words are what whitespace separates when text is binarised",
    ),
    Family(
        "--tokenizer= --bpe= --source-lang=en --target-lang=en",
        "tev",
        "tokenizers, subwords",
        "binarised data is in words and subwords already",
    ),
    # What a decoder of translations, or one that is not autoregressive, is asked for.
    Family(
        "--iter-decode-eos-penalty=0 --iter-decode-force-max-iter --iter-decode-max-iter=10 --iter-decode-with-beam=1"
        " --iter-decode-with-external-reranker --retain-iter-history --print-step --decoding-format=",
        "gi",
        "texts refined step by step",
        "a language model writes word by word",
    ),
    Family("--beam-mt=0 --lenpen-mt=1 --max-len-a-mt=0 --max-len-b-mt=200", "gi", "speech", "there is no speech"),
    Family(
        "--no-beamable-mm --no-early-stop --sacrebleu --diverse-beam-strength=0.5 --lm-weight=0"
        " --retain-dropout-modules=",
        "gi",
        "translation, and parts of other flags",
        "they are without effect there as well, or belong to a flag that is refused",
    ),
    Family("--quiet", "egiv", "no lines but the last", "lines are the result; send them to a file with >"),
    # Blocks.
    Family(
        "--pad-to-fixed-bsz --pad-to-fixed-length --shorten-data-split-list=",
        "tegiv",
        "padding, for TPUs",
        "padding changes no number",
    ),
    Family(
        "--add-bos-token --max-target-positions= --output-dictionary-size=-1 --sample-break-mode=none"
        " --tokens-per-sample=1024 --pad-to-fixed-bsz --pad-to-fixed-length --shorten-data-split-list="
        " --shorten-method=none --past-target --future-target --self-target --model-parallel-size=1"
        " --quantization-config-path=",
        "p",
        "models and blocks",
        "text is cut into blocks when it is read",
    ),
    Family("--quantization-config-path=", READING, "quantised training", NOTHING_IS_TRAINED),
    Family(
        "--tgtdict= --nwordstgt=-1 --thresholdtgt=0 --joined-dictionary",
        "p",
        "the other language",
        "--only-source: there is no other language",
    ),
    # Training, where nothing is trained.
    Family(
        "--optimizer= --momentum=0|0.99 --weight-decay/--wd=0 --adam-betas=(0.9,0.999) --adam-eps=1e-08 --lr="
        " --lr-scheduler=fixed --min-lr=0 --max-lr= --warmup-updates=0|4000 --warmup-init-lr=-1 --lr-shrink=0.1"
        " --lr-period-updates=5000|-1 --t-mult=1 --force-anneal= --end-learning-rate=0 --power=1 --total-num-update="
        " --adadelta-eps=1e-06 --adadelta-rho=0.9 --adamax-betas=(0.9,0.999) --adamax-eps=1e-08 --no-bias-correction"
        " --anneal-eps --adafactor-eps=(1e-30,1e-3) --beta1= --clip-threshold=1 --decay-rate=-0.8 --relative-step"
        " --scale-parameter --warmup-init --lamb-betas=(0.9,0.999) --lamb-eps=1e-08 --groups={} --dynamic-groups"
        " --decay-steps=0 --hold-steps=0 --init-lr-scale=0.01 --final-lr-scale=0.01 --phase-ratio= --warmup-steps=0"
        " --lr-patience=0 --lr-threshold=0.0001 --lr-decay=0.5 --lr-deacy-period=25000 --shrink-min --epoch2lr={}"
        " --update2lr={} --underlying-criterion=",
        NOT_TRAIN,
        "optimizer, schedule, loss",
        NOTHING_IS_TRAINED,
    ),
    Family(
        "--criterion=cross_entropy --label-smoothing=0 --ignore-prefix-size=0 --report-accuracy",
        "pegi",
        "loss",
        NOTHING_IS_TRAINED,
    ),
    Family("--max-target-positions=", READING, "length of a model", "the checkpoint's is in force"),
    Family(
        "--train-subset=train --valid-subset=valid --combine-valid-subsets/--combine-val --ignore-unused-valid-subsets"
        " --validate-interval=1 --validate-interval-updates=0 --validate-after-updates=0 --fixed-validation-seed="
        " --disable-validation --max-tokens-valid= --batch-size-valid/--max-sentences-valid="
        " --max-valid-steps/--nval= --curriculum=0 --required-seq-len-multiple=1 --grouped-shuffling"
        " --update-epoch-batch-itr= --update-ordered-indices-seed",
        "egi",
        "batches of training and validation",
        "--gen-subset is read, once, in its order",
    ),
    Family(
        "--save-dir=checkpoints --restore-file=checkpoint_last.pt --continue-once= --finetune-from-model="
        " --reset-dataloader --reset-lr-scheduler --reset-meters --reset-optimizer --optimizer-overrides={}"
        " --save-interval=1 --save-interval-updates=0 --keep-interval-updates=-1 --keep-interval-updates-pattern=-1"
        " --keep-last-epochs=-1 --keep-best-checkpoints=-1 --no-save --no-epoch-checkpoints --no-last-checkpoints"
        " --no-save-optimizer-state --best-checkpoint-metric=loss --maximize-best-checkpoint-metric --patience=-1",
        "giv",
        "checkpoints of training",
        NOTHING_IS_TRAINED,
    ),
    # Parts of a model, without the flag that turns them on.
    Family(
        "--character-embedding-dim=4 --character-filters= --char-embedder-highway-layers=2 --base-sublayers=1"
        " --base-shuffle= --quant-noise-pq-block-size=8",
        "t",
        "parts of a model",
        "they belong to flags that are refused",
    ),
)
