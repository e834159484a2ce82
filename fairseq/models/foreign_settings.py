"""Settings of other programs that these models do not have: which of them change what a model computes.

Such a setting may leave no trace among the weights, and would change the result without a word. There are three kinds:

    REFUSED     another computation: an error names it, unless it is off
    HARMLESS    training, files, machines: nothing that an evaluation computes
    neither     not known: a warning names it, unless it is off

How each acts was tried on fairseq 0.12, which evaluated the same weights with the setting and without.
"""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from fairseq.errors import CheckpointError, shown

logger = logging.getLogger(__name__)

_REFUSED = """
base_layers character_embeddings decoder_layers_to_keep decoder_xformers_att_config past_target quant_noise_pq
quant_noise_scalar self_target
"""
_HARMLESS = """
_name adam_betas adam_eps aim_repo aim_run_hash all_gather_list_size amp amp_batch_retries amp_init_scale
amp_scale_window arch average_sync azureml_logging base_shuffle base_sublayers batch_size batch_size_valid
best_checkpoint_metric bf16 block_lr block_momentum bpe bpe_add_prefix_space bpe_cased bpe_codes bpe_merges
bpe_separator bpe_vocab bpe_vocab_file broadcast_buffers bucket_cap_mb char_embedder_highway_layers char_inputs
character_embedding_dim character_filters checkpoint_activations checkpoint_shard_count checkpoint_suffix
clip_norm combine_valid_subsets continue_once cpu cpu_offload criterion cross_self_attention curriculum
data_buffer_size dataset_impl ddp_backend ddp_comm_hook debug_param_names decay_steps decoder_embed_path
device_id disable_validation distributed_backend distributed_init_method distributed_no_spawn
distributed_num_procs distributed_port distributed_rank distributed_world_size dstore_filename dstore_fp16
dstore_size dynamic_groups empty_cache_freq end_learning_rate faiss_metric_type fast_stat_sync final_lr_scale
find_unused_parameters finetune_from_model fix_batches_to_gpus fixed_validation_seed force_anneal fp16
fp16_adam_stats fp16_init_scale fp16_no_flatten_grads fp16_scale_tolerance fp16_scale_window fp32_reduce_scatter
future_target gen_subset global_sync_iter gpt2_encoder_json gpt2_vocab_bpe gradient_as_bucket_view
grouped_shuffling groups heartbeat_timeout hold_steps ignore_prefix_size ignore_unused_valid_subsets indexfile
init_lr_scale k keep_best_checkpoints keep_interval_updates keep_interval_updates_pattern keep_last_epochs
knn_keytype knn_sim_func label_smoothing lmbda load_checkpoint_on_all_dp_ranks localsgd_frequency log_file
log_format log_interval lr lr_deacy_period lr_decay lr_patience lr_period_updates lr_scheduler lr_shrink
lr_threshold max_epoch max_lr max_sentences max_sentences_valid max_tokens max_tokens_valid max_update
max_valid_steps maximize_best_checkpoint_metric memory_efficient_bf16 memory_efficient_fp16 min_loss_scale
min_lr min_params_to_wrap model_parallel_size momentum moses_no_dash_splits moses_no_escape move_dstore_to_mem
no_cross_attention no_epoch_checkpoints no_last_checkpoints no_load_keys no_progress_bar
no_reshard_after_forward no_save no_save_optimizer_state not_fsdp_flatten_parameters nprocs_per_node num_shards
num_workers offload_activations on_cpu_convert_precision optimizer optimizer_overrides pad_to_fixed_bsz
pad_to_fixed_length patience phase_ratio pipeline_balance pipeline_checkpoint pipeline_chunks
pipeline_decoder_balance pipeline_decoder_devices pipeline_devices pipeline_encoder_balance
pipeline_encoder_devices pipeline_model_parallel plasma_path power probe profile quant_noise_pq_block_size
quantization_config_path relu_dropout report_accuracy required_batch_size_multiple required_seq_len_multiple
reset_dataloader reset_logging reset_lr_scheduler reset_meters reset_optimizer restore_file save_dir
save_interval save_interval_updates seed sentence_avg sentencepiece_alpha sentencepiece_enable_sampling
sentencepiece_model sentencepiece_model_path settings_version shard_id shorten_data_split_list shorten_method
shrink_min skip_invalid_size_inputs_valid_test skip_remainder_batch slowmo_base_algorithm slowmo_momentum
source_lang stop_min_lr stop_time_hours suppress_crashes t_mult target_lang task tensorboard_logdir
threshold_loss_scale tokenizer total_num_update tpu train_subset truncate_sequence update_epoch_batch_itr
update_freq update_ordered_indices_seed use_bmuf use_nbm use_old_adam use_plasma_view use_sharded_state user_dir
valid_subset validate_after_updates validate_interval validate_interval_updates wandb_project warmup_init_lr
warmup_iterations warmup_steps warmup_updates weight_decay write_checkpoints_asynchronously zero_sharding
"""
REFUSED, HARMLESS = frozenset(_REFUSED.split()), frozenset(_HARMLESS.split())
_OFF: tuple[Any, ...] = (None, False, "", "None", (), [], {})


def refused(own: Collection[str]) -> frozenset[str]:
    """Returns the settings that make another computation, but for those that the model has itself."""
    return REFUSED - frozenset(own)


def refuse_other_computations(
    settings: Mapping[str, Any], own: Collection[str], vocabulary_size: int, path: str
) -> None:
    """Raises CheckpointError if a setting makes another computation of the weights than the models here.

    Args:
        settings: of the checkpoint, overrides included.
        own: the names that the model has itself, which are not looked at.
        vocabulary_size: ids of the dictionary.
        path: of the checkpoint.
    """
    for name in sorted(refused(own)):
        if not is_off(settings.get(name)):
            raise CheckpointError(
                f"{path}: the model was trained with {name} = {shown(settings[name])}, which is not supported here: it"
                " changes what the weights mean; evaluate it with the program that made it"
            )
    size = settings.get("output_dictionary_size")
    if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < vocabulary_size:
        raise CheckpointError(
            f"{path}: the model was trained with output_dictionary_size = {size}, and so knows {size} of the"
            f" {vocabulary_size} ids of the dictionary as targets, which is not supported here; evaluate it with the"
            " program that made it"
        )


def warn_of_unknown(settings: Mapping[str, Any], own: Collection[str], path: str) -> None:
    """Logs a warning with the names of the settings that are on and that nobody knows here."""
    known = HARMLESS | REFUSED | set(own)
    unknown = sorted(name for name, value in settings.items() if name not in known and not is_off(value))
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        logger.warning(
            "%s has settings that are unknown here: %s%s; if one changes what the model computes, results are wrong",
            path,
            ", ".join(map(shown, unknown[:8])),
            more,
        )
    task = settings.get("task")
    if isinstance(task, str) and task != "language_modeling":
        logger.warning("%s was trained for the task %s, and is read as a language model", path, shown(task))


def is_off(value: Any) -> bool:
    """Returns whether a setting has a value that stands for nothing; numbers below or at 0 do."""
    return value in _OFF or (isinstance(value, (int, float)) and value <= 0)
