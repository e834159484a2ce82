"""Tiny random models of transformers, one of each family that is tested."""

from typing import Any

import torch

VOCABULARY = 60
_PLAIN = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
_OPT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24}
_FALCON = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_DEEPSEEK = {
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_group": 2, "topk_group": 1},
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4},
    "head_dim": 4,
}
_ALIBI = {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True}
_JAMBA = {
    **{"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    **{"expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4},
}
_XGLM = {"d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2, "max_position_embeddings": 64}
_RWKV = {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16, "intermediate_size": 24}

# By name, which begins with transformers' own: a variant stands behind a colon.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gpt_neo": {
        **{"hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 4, "max_position_embeddings": 64},
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": _PLAIN,
    "gpt_neox:sequential": {**_PLAIN, "use_parallel_residual": False},
    "gptj": {**_GPT, "rotary_dim": 4},
    "codegen": {**_GPT, "n_head": 4, "n_ctx": 64, "rotary_dim": 4},
    "gpt_bigcode": _GPT,
    "opt": {**_OPT, "max_position_embeddings": 64, "word_embed_proj_dim": 16},
    "opt:projected": {
        **{**_OPT, "max_position_embeddings": 64, "word_embed_proj_dim": 8},
        "do_layer_norm_before": False,
    },
    "xglm": _XGLM,
    "biogpt": {**_PLAIN, "intermediate_size": 24},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64},
    "falcon": {**_FALCON, "max_position_embeddings": 64},
    "falcon:new": {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True, "max_position_embeddings": 64},
    "falcon:alibi": {**_FALCON, **_ALIBI},
    "llama": _PLAIN,
    "mistral": {**_PLAIN, "sliding_window": 4},
    "mixtral": {**_PLAIN, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
    "qwen2_moe": {**_PLAIN, **_EXPERTS, "shared_expert_intermediate_size": 8},
    "qwen3_moe": {**_PLAIN, **_EXPERTS},
    "deepseek_v2": {**_PLAIN, **_DEEPSEEK},
    "deepseek_v3": {**_PLAIN, **_DEEPSEEK, "first_k_dense_replace": 1},
    "gemma": _PLAIN,
    "gemma2": {**_PLAIN, "final_logit_softcapping": 0.05, "sliding_window": 4},
    "gemma3_text": {**_PLAIN, "sliding_window": 4},
    "phi": _PLAIN,
    "phi3": {**_PLAIN, "sliding_window": None},
    "cohere": {**_PLAIN, "logit_scale": 0.3},
    "cohere2": {**_PLAIN, "logit_scale": 0.3, "sliding_window": 4},
    "olmo": _PLAIN,
    "olmo2": _PLAIN,
    "granite": {**_PLAIN, "logits_scaling": 3.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    "granitemoe": {**_PLAIN, "num_local_experts": 2, "num_experts_per_tok": 1, "logits_scaling": 2.0},
    "stablelm": _PLAIN,
    "starcoder2": {**_PLAIN, "sliding_window": None},
    "nemotron": _PLAIN,
    "glm": _PLAIN,
    "glm4": _PLAIN,
    "smollm3": _PLAIN,
    "gpt_oss": {**_PLAIN, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "jamba": {**_PLAIN, **_JAMBA},
    "falcon_h1": {
        **{**_PLAIN, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 4},
        "lm_head_multiplier": 0.3,
    },
    "rwkv": {**_RWKV, "context_length": 64},
}


def tiny_model(family: str, seed: int = 3, **settings: Any) -> Any:
    """Returns a family's model with random weights that leave no part of it idle, in evaluation mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from fairseq.models.huggingface.loading import quiet

    name = family.partition(":")[0]
    config = AutoConfig.for_model(name, **{"vocab_size": VOCABULARY, **FAMILIES[family], **settings})
    torch.manual_seed(seed)
    with quiet():
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases as well
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model
