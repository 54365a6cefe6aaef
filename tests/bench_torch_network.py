"""A PyTorch network that is equivalent to GPSToken, for `tests.bench_model`; nothing else needs it.

Modules carry the names of the published state dict, so one set of weights fills both networks.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class ResnetBlock(nn.Module):
    """norm, swish, conv twice, plus the input."""

    def __init__(self, width_in: int, width: int, norm):
        super().__init__()
        self.norm1, self.norm2 = norm(width_in), norm(width)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class StdNorm(nn.Module):
    """Group normalisation by ``std + eps``."""

    def __init__(self, groups: int, width: int):
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        grouped = x.reshape(len(x), self.groups, -1)
        variance, mean = torch.var_mean(grouped, dim=2, correction=0, keepdim=True)
        normed = ((grouped - mean) / (variance.sqrt() + 1e-6)).view(x.shape)
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class Attention(nn.Module):
    """Single-head self-attention over the positions of a map."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        for name in ("q", "k", "v", "proj_out"):
            setattr(self, name, nn.Conv2d(width, width, 1))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(out)


class Decoder(nn.Module):
    """Map to image."""

    def __init__(self, feature_channels: int, config):
        super().__init__()
        groups = config.norm_groups

        def norm(width):
            return StdNorm(groups, width)

        width = config.channels * config.multipliers[-1]
        self.conv_in = nn.Conv2d(feature_channels, width, 3, padding=1)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = (ResnetBlock(width, width, norm) for _ in range(2))
        self.mid.attn_1 = Attention(width, groups)
        levels = []
        for level in reversed(range(len(config.multipliers))):
            level_width, blocks = config.channels * config.multipliers[level], nn.ModuleList()
            for _ in range(config.blocks_per_level):
                blocks.append(ResnetBlock(width, level_width, norm))
                width = level_width
            module = nn.Module()
            module.block = blocks
            if level:
                module.upsample = nn.Module()
                module.upsample.conv = nn.Conv2d(width, width, 3, padding=1)
            levels.insert(0, module)
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = norm(width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        x = self.mid.block_1(self.conv_in(x))
        x = self.mid.block_2(self.mid.attn_1(x))
        for level in reversed(self.up):
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))


class Block(nn.Module):
    """Condition, attention, MLP."""

    def __init__(self, width: int, heads: int, ratio: int, positions: int):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1 = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )
        self.roimlp = nn.Linear(positions, 1)

    def forward(self, x, condition):
        x = x + self.roimlp(condition)[..., 0]
        h = self.ln1(x)
        x = x + self.attn1(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class TorchGPSToken(nn.Module):
    """The tokenizer; ``config`` is the model section of a config. Images are [B, 3, H, W]."""

    def __init__(self, config):
        super().__init__()
        encoder = config.encoder
        self.config, width = config, encoder.width

        def norm(channels):
            return nn.GroupNorm(encoder.norm_groups, channels, eps=1e-6)

        stem = [
            ResnetBlock(encoder.channels, encoder.channels, norm)
            for _ in range(encoder.stem_blocks)
        ]
        self.preprocess_img = nn.Sequential(nn.Conv2d(3, encoder.channels, 3, padding=1), *stem)
        self.roialign_layer = nn.Conv2d(encoder.channels, width, 1)
        self.gps_embed = nn.Embedding(1, width)
        self.gps_embed_layer = nn.Sequential(
            nn.Linear(5, width), nn.GELU(), nn.Linear(width, width)
        )
        arguments = width, encoder.num_heads, encoder.mlp_ratio, encoder.roi_size**2
        self.attnblocks = nn.ModuleList(Block(*arguments) for _ in range(encoder.depth))
        self.to_gps = nn.ModuleList(
            [nn.Linear(width, 5), nn.Linear(width, config.feature_channels)]
        )
        self.decoder = Decoder(config.feature_channels, config.decoder)

    def encode(self, images, geometry, boxes):
        """Tokens [B, L, 5 + C]."""
        features = self.preprocess_img(images)
        rois = torch.stack([self._rois(*pair) for pair in zip(features, boxes, strict=True)])
        b, l, c, size = *rois.shape[:3], rois.shape[-1]
        condition = self.roialign_layer(rois.reshape(b * l, c, size, size)).flatten(2)
        condition = condition.view(b, l, *condition.shape[1:])
        x = self.gps_embed.weight[None] + self.gps_embed_layer(geometry)
        for block in self.attnblocks:
            x = block(x, condition)
        delta, features = (head(x) for head in self.to_gps)
        sigma = torch.sigmoid(torch.logit(geometry[..., :2]) + delta[..., :2])
        start = geometry[..., 2:]
        rest = 2 * torch.sigmoid(torch.log((1 + start) / (1 - start)) + delta[..., 2:]) - 1
        return torch.cat([sigma, rest, features], dim=-1)

    def _rois(self, features, boxes):
        """RoIAlign of one map [C, H, W], each box with only the pixels that it covers."""
        _, height, width = features.shape
        bins, out = self.config.encoder.roi_size, []
        pixels = (boxes + 1) / 2 * torch.tensor([width - 1, height - 1, width - 1, height - 1])
        for x1, y1, x2, y2 in pixels.tolist():
            rows, top = axis_weights(y1, y2, bins, height)
            columns, left = axis_weights(x1, x2, bins, width)
            piece = features[:, top : top + rows.shape[1], left : left + columns.shape[1]]
            out.append(rows @ piece @ columns.T)
        return torch.stack(out)

    def render(self, tokens):
        """The map [B, C, S, S]."""
        size = self.config.render_size
        grid = 2 * torch.arange(size) / (size - 1) - 1
        sigma_x, sigma_y, rho, mu_x, mu_y = (tokens[..., i, None, None] for i in range(5))
        dx, dy = grid - mu_x, grid[:, None] - mu_y
        inside = (dx.abs() <= self.config.support * sigma_x) & (
            dy.abs() <= self.config.support * sigma_y
        )
        u, v = dx / sigma_x, dy / sigma_y
        weight = torch.exp((u * u - 2 * rho * u * v + v * v) / (-2 * (1 - rho * rho))) * inside
        return torch.einsum("blc,blyx->bcyx", tokens[..., 5:], weight)

    def decode(self, tokens):
        """Images [B, 3, H, W]."""
        return self.decoder(self.render(tokens))


def axis_weights(low: float, high: float, bins: int, size: int) -> tuple[torch.Tensor, int]:
    """Weights [bins, n] of n pixels along one axis, and the first of those pixels."""
    low, high = low - 0.5, high - 0.5
    side = (high - low) / bins
    samples = math.ceil(side)
    at = low + side * (torch.arange(bins)[:, None] + (torch.arange(samples) + 0.5) / samples)
    at = at.clamp(0, size - 1)
    first, last = int(at.min()), min(int(at.max()) + 1, size - 1)
    pixels = torch.arange(first, last + 1)
    weights = (1 - (at[..., None] - pixels).abs()).clamp(min=0).sum(1) / samples
    return weights, first
