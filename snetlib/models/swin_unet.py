"models.swin_unet"
#| export
import torch
from snetlib.models.bricks import (
    PatchExpand,
    backbone_state,
    drop_path_rates,
    load_part,
    patch_merging,
    swin_stage,
)
from snetlib.models.contract import Rival, counted, translate
from snetlib.models.registry import register_model
from torch import nn

#| export
SWIN_UNET_NAMES = (  # the authors' names and ours
    (r'^(module\.)?swin_unet\.', ''),
    (r'^patch_embed\.', 'patch.'),
    (r'^layers\.(\d)\.blocks', r'stages.\1'),
    (r'^layers\.(\d)\.downsample', r'merges.\1'),
    (r'^layers_up\.0\.', 'expands.0.'),
    (r'^layers_up\.(\d)\.blocks', counted('ups.{}', lambda i: i - 1)),
    (r'^layers_up\.(\d)\.upsample', r'expands.\1'),
    (r'^concat_back_dim\.(\d)', counted('joins.{}', lambda i: i - 1)),
    (r'^up\.', 'last.'),
    (r'^output\.', 'head.'),
)
SWIN_BUFFERS = (r'.*attn_mask$', r'.*relative_position_index$')  # computed, not learned
TIMM_SWIN = 'swin_tiny_patch4_window7_224.ms_in1k'
TIMM_SWIN_NAMES = (  # timm's names and ours; timm merges at the start of a stage
    (r'^patch_embed\.', 'patch.'),
    (r'^layers\.(\d)\.blocks', r'stages.\1'),
    (r'^layers\.(\d)\.downsample', counted('merges.{}', lambda i: i - 1)),
)


class PatchCut(nn.Module):
    "Patches that do not overlap, as a strided convolution, and LayerNorm: map to (b, h, w, c)."

    def __init__(
        self,
        c_in: int,  # image channels
        c: int,  # channels of a token
        k: int = 4,  # side of a patch
    ):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(c_in, c, k, k), nn.LayerNorm(c)

    def forward(self, x):
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinUnet(Rival):
    "A U-Net of Swin blocks, patch merging and patch expanding (Fig. 1 of Swin-Unet)."

    authors, unused = SWIN_UNET_NAMES, SWIN_BUFFERS

    def __init__(
        self,
        c_in: int = 3,  # image channels
        n_out: int = 9,  # classes
        *,
        width: int = 96,  # channels at stride 4; doubled at each merging
        depths: tuple = (2, 2, 2, 2),  # blocks of each stage, on both sides
        heads: tuple = (3, 6, 12, 24),  # attention heads of each stage
        drop_path: float = 0.2,  # share of images without the last block; rises from 0
        pretrained=False,  # False | True (timm's Swin-T, ImageNet) | path of its weights file
    ):
        super().__init__(c_in)
        c = [width, 2 * width, 4 * width, 8 * width]
        stages = [*zip(c, depths, heads, (56, 28, 14, 7), drop_path_rates(drop_path, depths))]
        self.patch = PatchCut(self.c_net, width)
        self.stages = nn.ModuleList(swin_stage(*numbers) for numbers in stages)
        self.merges = nn.ModuleList(patch_merging(i) for i in c[:3])
        self.norm = nn.LayerNorm(c[3])
        self.expands = nn.ModuleList(PatchExpand(i, i // 2) for i in c[:0:-1])
        self.joins = nn.ModuleList(nn.Linear(2 * i, i) for i in c[2::-1])
        self.ups = nn.ModuleList(swin_stage(*numbers) for numbers in stages[2::-1])
        self.norm_up, self.last = nn.LayerNorm(width), PatchExpand(width, width, 4)
        self.head = nn.Conv2d(width, n_out, 1, bias=False)
        self.apply(init_linear)
        if pretrained:
            self.start_from(backbone_state(TIMM_SWIN, pretrained, self.c_net))

    def logits(self, x):
        skips, x = self.encode(self.patch(x))
        return [self.decode(x, skips)]

    def encode(self, x):
        "What enters the first three stages, finest first, and what leaves the last."
        skips = []
        for stage, merge in zip(self.stages, self.merges):
            skips.append(x)
            x = merge(stage(x))
        return skips, self.norm(self.stages[3](x))

    def decode(self, x, skips):
        "Logits from the deepest map and the skips, finest first; all (b, h, w, c)."
        for expand, join, stage, skip in zip(self.expands, self.joins, self.ups, skips[::-1]):
            x = stage(join(torch.cat([expand(x), skip], -1)))
        x = self.last(self.norm_up(x))
        return self.head(x.permute(0, 3, 1, 2))

    def start_from(self, state):
        "Both sides from Swin-T, as published: a decoder stage starts as its encoder stage."
        state = translate(state, TIMM_SWIN_NAMES)
        to_ups = ((r'^stages\.([012])', counted('ups.{}', lambda i: 2 - i)),)
        return load_part(self, state | translate(state, to_ups))


def init_linear(module):
    "Linear layers from a truncated normal of 0.02, biases zero."
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

#| export
@register_model(tags=('transformer', 'equal'))
def swin_unet(c_in=3, n_out=2, **numbers):
    "Swin-Unet, 27 M parameters (Cao et al. 2021); the authors' weights give the authors' output."
    return SwinUnet(c_in, n_out, **numbers)


@register_model(tags=('transformer', 'equal'))
def swin_unet_deep(c_in=3, n_out=2, **numbers):
    "Swin-Unet with 2, 2, 6, 2 blocks, 41 M parameters: the count of SNet's Table 4."
    return SwinUnet(c_in, n_out, **dict(depths=(2, 2, 6, 2)) | numbers)
