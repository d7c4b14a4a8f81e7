"""The keys of DeepSpeed 0.19's JSON and what becomes of them here.

A test compares these tables with the installed DeepSpeed. Three kinds: usable, owned by the run file (the value names
the run's key), and without effect: the backbone is frozen, DeepSpeed holds no optimizer, and its engine's own
forward, backward and step are never called, so neither gradients nor step reports exist.
"""

from __future__ import annotations

DEEPSPEED_VERSION = "0.19"

USABLE_KEYS = frozenset(
    "zero_optimization aio comms_logger memory_breakdown dump_state log_level disable_python_gc".split()
)

OWNED_KEYS = {
    "train_batch_size": "local.batch_size and chunk.clients",
    "train_micro_batch_size_per_gpu": "local.batch_size and chunk.clients",
    "gradient_accumulation_steps": "local.steps",
    "managed_gradient_accumulation": "local.steps",
    "gradient_clipping": "local.clip_norm",
    "optimizer": "local.optimizer",
    "scheduler": "local.schedule",
    "bf16": "backbone.dtype",
    "bfloat16": "backbone.dtype",
    "fp16": "backbone.dtype",
    "torch_autocast": "backbone.dtype",
    "data_types": "backbone.dtype",
    "activation_checkpointing": "backbone.checkpointing",
}

KEYS_WITHOUT_EFFECT = frozenset(
    "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer communication_data_type "
    "seq_parallel_communication_data_type prescale_gradients gradient_predivide_factor gradient_allreduce_op "
    "disable_allgather checkpoint datastates_ckpt dataloader_drop_last use_data_before_expert_parallelism "
    "autotuning data_efficiency hybrid_engine pipeline tensor_parallel expert_parallel sequence_parallel_size "
    "weight_quantization compile vocabulary_size steps_per_print wall_clock_breakdown timers flops_profiler "
    "tensorboard wandb csv_monitor comet".split()
)

# Kinds of value: "flag", "count" (integer of at least 0, 5e8 is one), "table" (its own keys below), "any".
ZERO_KEYS = (
    {
        "stage": "count",
        "offload_param": "table",
        "leaf_module": "any",
    }
    | dict.fromkeys(
        "zero_hpz_partition_size "
        "stage3_prefetch_bucket_size prefetch_bucket_size "
        "stage3_param_persistence_threshold param_persistence_threshold "
        "stage3_model_persistence_threshold model_persistence_threshold "
        "stage3_max_live_parameters max_live_parameters stage3_max_reuse_distance max_reuse_distance "
        "stage3_module_granularity_threshold module_granularity_threshold".split(),
        "count",
    )
    | dict.fromkeys(
        "overlap_comm "
        "stage3_use_all_reduce_for_fetch_params use_all_reduce_for_fetch_params "
        "stage3_allgather_sequential allgather_sequential "
        "zero_quantized_weights zero_quantized_nontrainable_weights memory_efficient_linear "
        "pipeline_loading_checkpoint override_module_apply log_trace_cache_warnings enable_sanity_checks".split(),
        "flag",
    )
)

ZERO_KEYS_WITHOUT_EFFECT = frozenset(
    "offload_optimizer zenflow cpu_offload cpu_offload_param cpu_offload_use_pin_memory "
    "stage3_gather_fp16_weights_on_model_save elastic_checkpoint legacy_stage1 load_from_fp32_weights "
    "ignore_unused_parameters round_robin_gradients parameter_alignment compute_grad_norm zero_quantized_gradients "
    "save_muon_momentum_buffer_in_memory reduce_bucket_size allgather_bucket_size sub_group_size "
    "contiguous_gradients reduce_scatter use_multi_rank_bucket_allreduce allgather_partitions "
    "stage3_gather_16bit_weights_on_model_save gather_16bit_weights_on_model_save".split()
)

OFFLOAD_DEVICES = ("none", "cpu", "nvme")
OFFLOAD_PARAM_KEYS = {
    "device": "device",
    "nvme_path": "path",
    "buffer_count": "count",
    "buffer_size": "count",
    "max_in_cpu": "count",
    "pin_memory": "flag",
}

AIO_KEYS = {
    "block_size": "count",
    "queue_depth": "count",
    "intra_op_parallelism": "count",
    "single_submit": "flag",
    "overlap_events": "flag",
    "use_gds": "flag",
}
