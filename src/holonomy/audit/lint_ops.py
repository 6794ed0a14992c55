"""What operations of array libraries do to facts about points of the ball."""

from __future__ import annotations

import re

from holonomy.audit.lint_names import word_set

NORM_NAME = re.compile(r"_?((vec|vector|safe|l2|euclidean|poincare|point)_)?norm")
"""Functions of a project that take the norm of their one argument: what matters is who calls them."""
NORMS = frozenset(["norm", "vector_norm", "safe_norm", "l2_norm", "frobenius_norm"])
DISTANCES = word_set(
    "cdist pdist pairwise_distance pairwise_distances euclidean_distances euclidean_distance mse_loss l1_loss "
    "smooth_l1_loss huber_loss PairwiseDistance"
)
MEANS = word_set(
    "mean sum average nanmean nansum lerp lerp_ scatter_mean scatter_add scatter_add_ index_add index_add_ cumsum "
    "global_mean_pool global_add_pool avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d segment_sum add "
    "add_"
)
PRODUCTS = word_set(
    "cosine_similarity dot matmul mm bmm inner vdot tensordot einsum mv addmm outer baddbmm CosineSimilarity"
)
KEEP = word_set(
    "cat concat concatenate stack vstack hstack where clone contiguous to cuda cpu view view_as reshape squeeze "
    "unsqueeze expand expand_as transpose permute t flatten unflatten float double half bfloat16 type type_as "
    "detach detach_ index_select gather repeat repeat_interleave chunk split unbind narrow roll flip select "
    "masked_select masked_fill requires_grad_ as_tensor tensor asarray array from_numpy numpy broadcast_to swapaxes "
    "movedim nan_to_num copy clamp clip clamp_min clamp_max unfold take_along_dim take tolist item retain_grad "
    "Parameter pad sort topk list tuple reversed checkpoint zip enumerate values items get pop next iter atleast_2d "
    "ravel sqrt abs broadcast_tensors minimum maximum scalar_tensor ones_zeros detach_copy data_ptr log1p round"
)
REDUCE = word_set("mean sum max min amax amin std var median quantile nanmean average prod all any")
INVERSES = word_set(
    "asinh acosh atanh artanh arcosh arsinh arctanh arccosh arcsinh artan_k arsin_k arctan_k safe_atanh safe_acosh "
    "safe_artanh safe_arcosh arcosh_stable artanh_stable ArTanC ArTanh ArCosh ArSinh"
)
INERT = word_set(
    "shape dtype device ndim size dim grad requires_grad is_cuda numel layout names itemsize grad_fn is_leaf"
)
SHADOWS = word_set("data T mT H real tensor value weight weights emb")
MIXES = word_set(
    "mse_loss l1_loss smooth_l1_loss huber_loss minimum maximum clamp clamp_min clamp_max lt le gt ge less greater"
)
HARMLESS = word_set("isnan isfinite isinf zeros_like ones_like empty_like full_like len id type isinstance sign")
ARITHMETIC = {
    "sub": "Sub",
    "subtract": "Sub",
    "mul": "Mult",
    "multiply": "Mult",
    "div": "Div",
    "divide": "Div",
    "true_divide": "Div",
    "safe_div": "Div",
    "safe_divide": "Div",
}
BALL_SAMPLERS = word_set(
    "exp retr project proj projx random random_normal wrapped_normal random_uniform origin geodesic midpoint "
    "weighted_midpoint frechet_mean karcher_mean to_ball from_normal expmap0 expmap geodesic_unit barycenter"
)
TANGENT_MAPS = word_set("log transport proju egrad2rgrad gradient project_tangent to_normal logmap logmap0")
