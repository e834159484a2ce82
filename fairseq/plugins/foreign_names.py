"""Names of fairseq's that plugins import and that are not here, each with what to use instead.

Encoders, translation and fairseq's own datasets are no part of this toolkit.
"""

import re
import sys
import traceback
from contextlib import AbstractContextManager
from importlib.util import find_spec

from fairseq.plugins import stand_ins
from fairseq.plugins.stand_ins import NotHereError

_PAGE = "docs/plugins.md shows how"
_MODEL = (
    "a model here is an nn.Module with forward(source_BT, first) and target_log_prob, or a subclass of"
    f" fairseq.models.transformer_lm.TransformerLanguageModel; {_PAGE}"
)
_LAYERS = (
    "subclass fairseq.models.transformer_lm.TransformerLanguageModel, override __init__(self, config, vocabulary_size)"
    f" without build_model, and replace parts of self.decoder; {_PAGE}"
)
_TASK = f"subclass fairseq.tasks.language_modeling.LanguageModelingTask, and override load_split; {_PAGE}"
_DATA = "a split is a fairseq.data.block_dataset.BlockDataset here, which load_split of a task returns"
_NO_PAIRS = "this toolkit is for language models: leave encoders and translation out of the plugin"
_OPTIMIZER = f"an optimizer is a function (parameters, lr, config) → torch.optim.Optimizer here; {_PAGE}"
_SCHEDULE = f"a schedule is a function (config, optimization) → ((num_updates, epoch) → lr) here; {_PAGE}"
_LOG = (
    "fairseq.metrics has aggregate, log_derived, log_scalar, log_scalar_sum, log_speed, log_start_time and"
    " log_stop_time"
)
# The longest name that begins a missing one, or is it, has the advice.
_INSTEAD = {
    "fairseq": f"nothing stands in its place; {_PAGE}",
    "fairseq.models": _MODEL,
    "fairseq.models.FairseqEncoder": _NO_PAIRS,
    "fairseq.models.FairseqEncoderDecoderModel": _NO_PAIRS,
    "fairseq.models.FairseqEncoderModel": _NO_PAIRS,
    "fairseq.models.FairseqMultiModel": _NO_PAIRS,
    "fairseq.models.FairseqDecoder": _LAYERS,
    "fairseq.models.FairseqIncrementalDecoder": _LAYERS,
    "fairseq.models.transformer": _LAYERS,
    "fairseq.models.transformer.TransformerModel": _NO_PAIRS,
    "fairseq.models.transformer.TransformerEncoder": _NO_PAIRS,
    "fairseq.models.transformer.Embedding": _LAYERS,
    "fairseq.models.ARCH_CONFIG_REGISTRY": "fairseq.models.architecture_names() returns them",
    "fairseq.models.ARCH_MODEL_REGISTRY": "fairseq.models.architecture_names() returns them",
    "fairseq.models.BaseFairseqModel": _MODEL,
    "fairseq.models.FairseqLanguageModel": _MODEL,
    "fairseq.models.build_model": "a task makes it: build_model(name, config) of its own",
    "fairseq.models.MODEL_REGISTRY": "fairseq.models.MODELS names them",
    "fairseq.models.transformer.base_architecture": "fairseq.models.transformer_lm.base_lm_architecture",
    "fairseq.models.transformer_lm": _MODEL,
    "fairseq.models.lightconv": "convolutions are not built here",
    "fairseq.models.lightconv_lm": "convolutions are not built here",
    "fairseq.models.fconv": "convolutions are not built here",
    "fairseq.models.fconv_lm": "convolutions are not built here",
    "fairseq.models.lstm": "recurrent layers are not built here; torch.nn has some",
    "fairseq.models.lstm_lm": "recurrent layers are not built here; torch.nn has some",
    "fairseq.models.roberta": _NO_PAIRS,
    "fairseq.modules": "the parts of a decoder are fairseq.models.decoder.Decoder, DecoderLayer of"
    " fairseq.modules.decoder_layer and SelfAttention of fairseq.modules.self_attention",
    "fairseq.modules.GradMultiply": "scale the gradient by register_hook of a tensor",
    "fairseq.modules.LayerNorm": "torch.nn.LayerNorm",
    "fairseq.modules.FairseqDropout": "fairseq.modules.dropout.dropout, or torch.nn.Dropout",
    "fairseq.modules.MultiheadAttention": "fairseq.modules.self_attention.SelfAttention",
    "fairseq.modules.TransformerDecoderLayer": "fairseq.modules.decoder_layer.DecoderLayer",
    "fairseq.modules.PositionalEmbedding": "SinusoidalPositions and LearnedPositions of fairseq.modules.positions",
    "fairseq.modules.SinusoidalPositionalEmbedding": "fairseq.modules.positions.SinusoidalPositions",
    "fairseq.modules.LearnedPositionalEmbedding": "fairseq.modules.positions.LearnedPositions",
    "fairseq.modules.AdaptiveInput": "fairseq.modules.adaptive_input.AdaptiveInput",
    "fairseq.modules.AdaptiveSoftmax": "fairseq.modules.adaptive_softmax.AdaptiveSoftmax",
    "fairseq.modules.TransformerEncoderLayer": _NO_PAIRS,
    "fairseq.tasks": _TASK,
    "fairseq.tasks.FairseqTask": _TASK,
    "fairseq.tasks.LegacyFairseqTask": _TASK,
    "fairseq.tasks.setup_task": "fairseq.tasks.make_task(name, config) makes a task; fairseq.hub.from_pretrained opens"
    " a trained model with its own",
    "fairseq.tasks.TASK_REGISTRY": "fairseq.tasks.TASKS names them",
    "fairseq.tasks.translation": _NO_PAIRS,
    "fairseq.data": _DATA,
    "fairseq.data.data_utils": _DATA,
    "fairseq.data.FairseqDataset": _DATA,
    "fairseq.data.MonolingualDataset": _DATA,
    "fairseq.data.TokenBlockDataset": _DATA,
    "fairseq.data.indexed_dataset.make_dataset": "fairseq.data.MMapIndexedDataset(prefix) opens a split",
    "fairseq.data.iterators": "batches are made of blocks by fairseq.data.batching",
    "fairseq.data.encoders": "fairseq.data.encoders has register_tokenizer and register_bpe, and no more",
    "fairseq.data.LanguagePairDataset": _NO_PAIRS,
    "fairseq.criterions": f"criterions derive from fairseq.criterions.FairseqCriterion; {_PAGE}",
    "fairseq.criterions.CRITERION_REGISTRY": "fairseq.criterions.CRITERIONS names them",
    "fairseq.optim": _OPTIMIZER,
    "fairseq.optim.FairseqOptimizer": _OPTIMIZER,
    "fairseq.optim.LegacyFairseqOptimizer": _OPTIMIZER,
    "fairseq.optim.lr_scheduler": f"fairseq.optim has register_lr_scheduler, and {_SCHEDULE}",
    "fairseq.options": "flags are fields of a dataclass (fairseq.config.flags.flag) here; docs/plugins.md shows how",
    "fairseq.checkpoint_utils": "fairseq.hub.from_pretrained(path, data_name_or_path=data).models[0] is a trained"
    " model, which a criterion calls as fairseq.criterions.model_view.ModelView(model);"
    " fairseq.checkpoints.load_checkpoint reads settings and weights",
    "fairseq.hub_utils": "fairseq.hub.from_pretrained opens a trained model",
    "fairseq.distributed": "processes are torch.distributed's here, which fairseq.runtime.distributed joins",
    "fairseq.distributed_utils": "processes are torch.distributed's here, which fairseq.runtime.distributed joins",
    "fairseq.file_io": "pathlib.Path opens files",
    "fairseq.file_utils": "pathlib.Path opens files",
    "fairseq.incremental_decoding_utils": "what a model has read is in a fairseq.modules.kv_cache.KeyValueCache here",
    "fairseq.registry": "the registries are register_… of fairseq.models, tasks, criterions and optim",
    "fairseq.trainer": "fairseq.train.trainer.Trainer makes updates, and is not for plugins",
    "fairseq.sequence_scorer": "fairseq.hub.from_pretrained opens a model whose score(text) has the probabilities",
    "fairseq.tokenizer": "line.split() gives the words; fairseq.data.encoders has tokenizers",
    "fairseq.utils": f"it has get_perplexity, item, softmax and log_softmax; {_PAGE}",
    "fairseq.utils.move_to_cuda": "tensor.to(device) moves a tensor",
    "fairseq.utils.import_user_module": "fairseq.plugins.user_dir.import_user_dir(path) imports a plugin",
    "fairseq.logging": _LOG,
    "fairseq.meters": _LOG,
    "fairseq.metrics": _LOG,
    "fairseq.sequence_generator": "fairseq.hub.from_pretrained opens a model whose generate(text) and sample(text)"
    " continue a text",
}
_CANNOT_IMPORT = re.compile(r"cannot import name '(\w+)' from (?:partially initialized module )?'([\w.]+)'")


def names_may_be_absent() -> AbstractContextManager[None]:
    """Returns a context in which names that are not here can be imported, and are refused where they are used."""
    return stand_ins.stand_ins(_INSTEAD)


def not_here(module: str, name: str) -> stand_ins.StandIn:
    """Returns the stand-in of a name, in a module's ``__getattr__``, while a plugin is imported.

    Raises:
        NotHereError: the table has it, and no plugin is being imported; the text says what to use instead.
        AttributeError: another name, or one of a module that is there and that nobody has imported.
    """
    full, there = f"{module}.{name}", sys.modules[module]
    if not name.startswith("_") and not ("__path__" in vars(there) and find_spec(full)):
        if stand_ins.in_plugin:
            return stand_ins.StandIn(full, instead_of(full))
        if full in _INSTEAD:
            raise NotHereError(f"{full} is not here; {_INSTEAD[full]}", name=full)
    raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name, obj=there)


def name_that_is_missing(err: Exception) -> str:
    """Returns the full name of what an import asked of this package in vain; empty if an error means something else."""
    name = ""
    if isinstance(err, NotHereError):
        name = err.name or ""
    elif isinstance(err, ModuleNotFoundError):
        name = _asked_of(err.name or "", err)
    elif isinstance(err, ImportError) and (match := _CANNOT_IMPORT.match(str(err))):
        name = f"{match[2]}.{match[1]}"
    elif isinstance(err, AttributeError) and (module := getattr(err.obj, "__name__", None)):
        name = f"{module}.{err.name}" if type(err.obj).__name__ == "module" else ""
    return name if name.split(".")[0] in ("fairseq", "fairseq_cli") else ""


def _asked_of(module: str, err: Exception) -> str:
    """Returns the name that ``from module import name`` asked for, the first that has advice; the module if unknown."""
    for frame in reversed(traceback.extract_tb(err.__traceback__)):
        if match := re.match(rf"from {re.escape(module)} import \(?([\w, ]+)", frame.line or ""):
            names = [f"{module}.{name.split()[0]}" for name in match[1].split(",") if name.strip()]
            return next((name for name in names if name in _INSTEAD), names[0])
    return module


def instead_of(name: str) -> str:
    """Returns what to use in place of a name of fairseq's, by the longest name of the table that it begins with."""
    while name not in _INSTEAD:
        name = name.rpartition(".")[0] or "fairseq"
    return _INSTEAD[name]
