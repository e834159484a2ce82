"""Flags of fairseq's that commands here refuse, since they would change a result; ``reading.py`` reads the table."""

from fairseq.config.foreign.accepted import ALL, Family

REFUSED = (
    Family(
        "--past-target --self-target --future-target",
        "tegiv",
        "what is predicted",
        "each word is predicted from those before it; leave it out",
    ),
    Family(
        "--shorten-method=none",
        "tegiv",
        "text left out",
        "no text is left out; --tokens-per-sample says how long blocks are",
    ),
    Family(
        "--model-parallel-size=1 --pipeline-model-parallel",
        "tegiv",
        "a model on several GPUs",
        "a model is on one device; leave it out",
    ),
    Family("--tpu", "t", "TPUs", "training is on a GPU or the CPU; leave it out"),
    Family(
        "--fp16-scale-tolerance=0",
        "t",
        "the loss scale",
        "the loss scale is halved at every overflow, down to --min-loss-scale; leave it out",
    ),
    Family("--raw-text", "tegi", "text that is not binarised", "fairseq-preprocess binarises it; leave the flag out"),
    Family("--use-bmuf", "t", "blockwise model updates", "gradients are added at every update; leave it out"),
    Family("--quantization-config-path=", "t", "quantised training", "no model is quantised; leave it out"),
    Family(
        "--character-embeddings --base-layers=0 --quant-noise-pq=0 --quant-noise-scalar=0 --decoder-layers-to-keep="
        " --decoder-xformers-att-config=",
        "t",
        "parts of a model",
        "this part of a model is not built; leave it out",
    ),
    Family("--continue-once=", "t", "where training begins", "--restore-file does that; write --restore-file"),
    Family(
        "--checkpoint-shard-count=1 --checkpoint-suffix=",
        "tgiv",
        "a checkpoint of several files",
        "a checkpoint is one file; leave it out",
    ),
    Family(
        "--eos=2 --pad=1 --unk=3",
        ALL,
        "ids of special words",
        "special words have fixed ids (pad 1, eos 2, unk 3); leave it out",
    ),
    Family("--score-reference", "gi", "scores of given texts", "fairseq-score-lm and fairseq-eval-lm score texts"),
    Family(
        "--diverse-beam-groups=-1 --diversity-rate=-1",
        "gi",
        "unlike texts",
        "beams are not diverse; --sampling draws unlike texts",
    ),
    Family(
        "--constraints[=] --match-source-len --eos-token= --lm-path= --retain-dropout --print-alignment[=]"
        " --replace-unk[=]",
        "gi",
        "translation",
        "a text is a continuation of its prompt, by one model; leave it out",
    ),
    Family(
        "--sentencepiece-alpha= --sentencepiece-enable-sampling",
        "gi",
        "subwords drawn at random",
        "a text is split in one way; leave it out",
    ),
    Family(
        "--no-seed-provided", "gi", "other texts every time", "random numbers are those of --seed; give another seed"
    ),
    Family("--results-path=", "giv", "the result in a file", "the result is printed; send it to a file with >"),
    Family(
        "--store-ema",
        "t",
        "a running mean of the weights",
        "fairseq_cli.average_checkpoints averages checkpoints; leave it out",
    ),
    Family("--skip-remainder-batch", "t", "the last batches of an epoch", "every batch is trained on; leave it out"),
    Family(
        "--source-lang/-s= --target-lang/-t=",
        "p",
        "files of two languages",
        "give whole file names to --trainpref, --validpref and --testpref; leave it out",
    ),
    Family("--alignfile= --align-suffix=", "p", "word alignments", "there is one language; leave it out"),
    Family(
        "--task=translation|language_modeling",
        "p",
        "whose dictionary",
        "the dictionary is a language model's; leave it out",
    ),
)
