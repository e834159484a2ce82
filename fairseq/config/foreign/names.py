"""Names of fairseq's that are not built here, and what they are for, which an error tells."""

import re
from collections.abc import Collection

from fairseq.errors import some_of

_TRANSLATION = "translation (an encoder and a decoder)"
_SPEECH = "speech"
_MASKED = "masked language models"
_CLASSES = "classification of sentences"
_SEVERAL_GPUS = "models that are cut over several GPUs"
_BENCHMARKS = "fairseq's own benchmarks"

# Of each flag: patterns of names, the first that matches counts, and what such a name is for.
NOT_BUILT = {
    "--arch": (
        (r"fconv_lm\w*", "convolutional language models"),
        (r"lightconv_lm\w*", "language models of lightweight convolutions"),
        (r"lstm_lm", "LSTM language models"),
        (r"transformer_xl", "Transformer-XL"),
        (r"hf_gpt2\w*", "models of Hugging Face's package"),
        (r"transformer_lm_megatron\w*|model_parallel_\w+|\w+_pipeline_parallel", _SEVERAL_GPUS),
        (r"masked_lm|bert_\w+|roberta\w*|xlm\w*|xmod\w*", _MASKED),
        (r"wav2vec\w*|hubert\w*|s2\w+|convtransformer\w*|tts_\w+|tacotron\w*|fastspeech\w*|unity_\w+|xm_\w+", _SPEECH),
        (r"speech_dlm\w*|transformer_ulm\w*", _SPEECH),
        (r"dummy_model", _BENCHMARKS),
        (r"transformer|transformer_(align|tiny|iwslt|vaswani|wmt|from_pretrained)\w*", _TRANSLATION),
        (r"(lstm|fconv|lightconv|m?bart)(_\w+)?|[a-z_]+_transformer(_\w+)?", _TRANSLATION),
    ),
    "--task": (
        (
            r"multilingual_language_modeling",
            "texts that are drawn from by language (one text of all of them will do)",
        ),
        (r"truncated_bptt_lm", "Transformer-XL"),
        (r"(\w+_)?masked_lm|cross_lingual_lm", _MASKED),
        (r"\w*denoising", "texts to be restored"),
        (r"dummy_\w+", _BENCHMARKS),
        (r"sentence_\w+|nlu_finetuning", _CLASSES),
        (r"audio_\w+|\w*speech\w*|hubert_\w+|simul_\w+", _SPEECH),
        (r"(\w+_)?translation\w*|online_backtranslation", _TRANSLATION),
    ),
    "--criterion": (
        (r"(legacy_)?masked_lm(_loss)?", _MASKED),
        (r"sentence_\w+", _CLASSES),
        (r"ctc|wav2vec|hubert|speech_\w+|tacotron2|fastspeech2", _SPEECH),
        (r"vocab_parallel_cross_entropy", _SEVERAL_GPUS),
        (r"label_smoothed_cross_entropy_\w+|latency_\w+|nat_loss", _TRANSLATION),
        (r"composite_loss|model", "losses of plugins"),
    ),
    "--tokenizer": ((r"nltk", "NLTK, which downloads what it splits sentences by"),),
    "--optimizer": (
        (r"composite", "several optimizers in one run"),
        (r"cpu_adam|lamb", "optimizers of other packages"),
    ),
    "--lr-scheduler": (
        (r"manual", "rates by epoch and update; --lr takes a list, a rate an epoch"),
        (r"pass_through", "rates of the optimizer's own"),
    ),
}


def not_built(flag: str, name: str, known: Collection[str] = ()) -> str:
    """Returns the message for a name of fairseq's that is not built here, empty for any other name.

    Args:
        flag: that the name was given to.
        name: which is not among the known ones.
        known: names that there are, for the message.
    """
    for pattern, purpose in NOT_BUILT.get(flag, ()):
        if re.fullmatch(pattern, name):
            there = f"; there are {some_of(known)}" if known else ""
            return f"{flag} {name} is not here: it is for {purpose}{there}"
    return ""
