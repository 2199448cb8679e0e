"""Self-paced refinement: how much each cube of a batch contributes (paper, section 3.3)."""

import torch

START_RANGE = 4.0  # the upper threshold starts at mean + 4 std and shrinks towards mean + 1 std
SP_MODES = ("mixture", "hard", "linear", "huber", "none")


def thresholds(scores, step, shrink_rate):
    """(B,) losses -> the two thresholds l1 = mean + std and l2 = mean + max(1, 4 - step * shrink_rate) * std."""
    mean, std = scores.mean(), scores.std()  # unbiased; NaN for a batch of one
    return mean + std, mean + max(1.0, START_RANGE - step * shrink_rate) * std


def self_paced_weights(scores, step, shrink_rate, sp_mode):
    """Self-paced weights of one batch: 1 for a cube that is reconstructed well, 0 for a suspicious one.

        mixture   w = 1 if s <= l1,  0 if s >= l2,  else l1 (l2 - s) / (s (l2 - l1))
        hard      w = 1 if s < l2, else 0
        linear    w = 1 - s / l2 if s < l2, else 0
        huber     w = 1 if s < l2, else l2 / s
        none      w = 1 (no refinement: the paper's LBR baseline)

    scores: (B,) raw reconstruction losses s; step: batches since warm-up; l1, l2: see `thresholds`.
    Returns (B,). With equal scores all weights are 0 (huber: 1); a batch of one cube has weight 1.
    """
    ones, zeros = torch.ones_like(scores), torch.zeros_like(scores)
    if sp_mode == "none" or len(scores) == 1:
        return ones
    l1, l2 = thresholds(scores, step, shrink_rate)
    if sp_mode == "mixture":
        between = l1 * (l2 - scores) / (scores * (l2 - l1))
        return torch.where(scores >= l2, zeros, torch.where(scores <= l1, ones, between))
    if sp_mode == "hard":
        return torch.where(scores < l2, ones, zeros)
    if sp_mode == "linear":
        return torch.where(scores < l2, 1 - scores / l2, zeros)
    if sp_mode == "huber":
        return torch.where(scores < l2, ones, l2 / scores)
    raise ValueError(f"sp_mode must be one of {', '.join(SP_MODES)}, not {sp_mode!r}")


def weighted_loss(scores, weights, values, batch=None):
    """Mean loss per value of the cubes, each cube by its weight: sum(w * s) / (B * values).

    scores: (B,) losses; weights: (B,) or None for all 1; values: numbers in one cube (channels * P * P); batch: cubes in the
    whole batch, if these are a part of it.
    The division is by the batch size, not by the sum of the weights, so a batch with few trusted cubes changes little.
    """
    total = scores.sum() if weights is None else (weights * scores).sum()
    return total / ((batch or len(scores)) * values)
