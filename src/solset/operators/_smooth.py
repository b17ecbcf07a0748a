"""Operations of PyTorch that are smooth wherever they are defined; of any other one a kink is looked for.

A change of the dtype counts as smooth: features that are cut to integers hold ids or steps, which the
comparison of derivatives with differences finds.
"""

from collections.abc import Mapping
from typing import Any

SMOOTH = frozenset(
    """
    alias alias_copy as_strided as_strided_copy as_strided_scatter block_diag cat chunk_cat clone
    constant_pad_nd copy detach diag_embed diagonal diagonal_copy diagonal_scatter expand expand_copy
    fill flip gather im2col col2im index index_add index_copy index_fill index_put index_select
    lift_fresh masked_fill masked_scatter masked_select narrow_copy permute permute_copy pixel_shuffle
    pixel_unshuffle put reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape_alias resize resize_as roll rot90
    scatter scatter_add select select_scatter slice slice_scatter split split_copy split_with_sizes
    split_with_sizes_copy squeeze squeeze_copy stack t t_copy take transpose transpose_copy tril triu
    unbind unbind_copy unfold unfold_copy unsafe_index unsafe_index_put unsafe_masked_index
    unsafe_masked_index_put_accumulate unsafe_split unsafe_view unsqueeze unsqueeze_copy view
    view_as_complex view_as_real view_copy where conj conj_physical neg_view resolve_conj real imag
    complex constant new_empty new_empty_strided new_full new_ones new_zeros empty_like full_like
    ones_like zeros_like zero rand_like randn_like randint_like bernoulli normal uniform exponential
    geometric cauchy log_normal multinomial all any allclose isnan isinf isfinite isin logical_and
    logical_not logical_or logical_xor nonzero count_nonzero local_scalar_dense is_same_size
    assert_async assert_tensor_metadata add addbmm addcdiv addcmul addmm addmm_activation addmv addr
    baddbmm bmm cumprod cumsum dot einsum ldexp lerp linear linalg_cross logcumsumexp logsumexp mean mm
    mul mv nansum neg prod reciprocal rsub square sub sum trace trilinear bilinear vdot mse_loss var
    var_mean acosh asinh atan atanh cos cosh digamma erf erfc erfinv exp exp2 expm1 gelu glu i0 igamma
    igammac lgamma log log10 log1p log2 log_sigmoid log_sigmoid_forward log_softmax logaddexp logaddexp2
    logit mish mvlgamma polygamma safe_softmax sigmoid silu sin sinc sinh softmax softplus special_erfcx
    special_i1 special_log_ndtr special_ndtri special_xlog1py special_zeta tan tanh adaptive_avg_pool2d
    adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d batch_norm_with_update convolution
    convolution_overrideable cudnn_batch_norm cudnn_convolution mkldnn_convolution mkldnn_linear
    native_batch_norm native_batch_norm_legit native_batch_norm_legit_no_training native_dropout
    native_group_norm native_layer_norm fused_rms_norm embedding binary_cross_entropy
    binary_cross_entropy_with_logits nll_loss2d_forward nll_loss_forward soft_margin_loss ctc_loss
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_nearest_exact1d upsample_nearest_exact2d upsample_nearest_exact3d
    upsample_trilinear3d upsample_bicubic2d_aa upsample_bilinear2d_aa native_multi_head_attention
    transformer_encoder_layer_fwd scaled_dot_product_flash_attention
    scaled_dot_product_flash_attention_for_cpu scaled_dot_product_efficient_attention
    scaled_dot_product_cudnn_attention scaled_dot_product_attention_math thnn_fused_lstm_cell
    thnn_fused_gru_cell cudnn_rnn mkldnn_rnn_layer fft_c2c fft_c2r fft_r2c cholesky cholesky_inverse
    cholesky_solve linalg_check_errors linalg_cholesky_ex linalg_det linalg_inv_ex linalg_lu_solve
    linalg_matrix_exp linalg_slogdet linalg_solve_ex linalg_solve_triangular triangular_solve
    weight_norm_interface
    to_copy
    """.split()  # noqa: SIM905 - three hundred names read better as a text
)
"""Bare names of these operations, those that create or only read tensors among them."""


def is_smooth(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is known to be smooth, as is the backward pass of a smooth operation.

    Args:
        name: Bare name of the operation.
        kwargs: Keyword arguments of the call.
    """
    if name == "div":
        return kwargs.get("rounding_mode") is None
    return name in SMOOTH or name.removesuffix("_backward") in SMOOTH
