"""Lets SGLang 0.5.20 import its kernel package on a machine without one: names only, no kernels.

With SGLANG_USE_CPU_ENGINE=1 SGLang imports these seven when it starts. They belong to speculative decoding and
to copies of the KV cache; a plain text server on the CPU never calls them, and a call says what was missing.
"""


class Absent:
    """A kernel that is not here: calling it is an error that names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(f"sgl_kernel.{self.name} is only a name on this CPU test server")


assign_extend_cache_locs_cpu = Absent("assign_extend_cache_locs_cpu")
assign_req_to_token_pool_cpu = Absent("assign_req_to_token_pool_cpu")
build_tree_kernel_efficient_cpu = Absent("build_tree_kernel_efficient_cpu")
copy_all_layer_kv_cache_cpu = Absent("copy_all_layer_kv_cache_cpu")
fill_accept_out_cache_loc_cpu = Absent("fill_accept_out_cache_loc_cpu")
fill_bonus_tokens_cpu = Absent("fill_bonus_tokens_cpu")
verify_tree_greedy_cpu = Absent("verify_tree_greedy_cpu")
