"models.hiformer"
#| export
import torch
import torch.nn.functional as F
from snetlib.core import choose
from snetlib.models.bricks import (
    Positions,
    backbone_state,
    drop_path_rates,
    load_part,
    patch_merging,
    swin_stage,
    twice,
    vit_block,
)
from snetlib.models.contract import Backbone, Rival, counted, translate
from snetlib.models.layers import attention, to_map
from snetlib.models.registry import register_model
from snetlib.models.swin_unet import TIMM_SWIN, TIMM_SWIN_NAMES
from torch import nn

#| export
class Pyramid(nn.Module):
    "ResNet and Swin stages level by level; the finest and the coarsest map, (b, h, w, c)."

    def __init__(
        self,
        c_in: int,  # image channels
        encoder: str,  # timm's name of a ResNet
        width: int = 96,  # channels at stride 4, doubled at each level
        depths: tuple = (2, 2, 6),  # Swin blocks of each level
        heads: tuple = (3, 6, 12),  # attention heads of each level
        drop_path: float = 0.1,  # share of images without the last block; rises from 0
        pretrained=False,  # of the ResNet: False | True (timm's) | path of a weights file
        encoder_options: dict | None = None,  # further keywords of timm's ResNet
    ):
        super().__init__()
        c = (width, 2 * width, 4 * width)
        self.resnet = Backbone(encoder, c_in, pretrained, 3, encoder_options)
        self.laterals = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(self.resnet.widths[1:], c))
        numbers = zip(c, depths, heads, (56, 28, 14), drop_path_rates(drop_path, depths))
        self.stages = nn.ModuleList(swin_stage(*one) for one in numbers)
        self.merges = nn.ModuleList(patch_merging(i) for i in c[:2])

    def forward(self, x):
        maps = self.resnet(x)[2:]
        f1, f2, f3 = (conv(f).permute(0, 2, 3, 1) for conv, f in zip(self.laterals, maps))
        k1 = f1 + self.stages[0](f1)
        k2 = f2 + self.stages[1](self.merges[0](k1))
        k3 = f3 + self.stages[2](self.merges[1](k2))
        return k1, k3

#| export
class ClassAttention(nn.Module):
    "The first token asks, all tokens answer: (b, n, c) to (b, 1, c)."

    def __init__(
        self,
        c: int,  # channels
        heads: int,  # attention heads
    ):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(c)
        self.q, self.k, self.v = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c)
        self.proj = nn.Linear(c, c)

    def forward(self, t):
        n = self.norm(t)
        asked = attention(self.q(n[:, :1]), self.k(n), self.v(n), self.heads)
        return t[:, :1] + self.proj(asked)


class Exchange(nn.Module):
    "A list's class token visits another list and comes back changed."

    def __init__(
        self,
        c: int,  # channels of its own list
        other: int,  # channels of the other list
        heads: int,  # attention heads in the other list
    ):
        super().__init__()
        self.there = nn.Sequential(nn.LayerNorm(c), nn.GELU(), nn.Linear(c, other))
        self.attn = ClassAttention(other, heads)
        self.back = nn.Sequential(nn.LayerNorm(other), nn.GELU(), nn.Linear(other, c))

    def forward(self, t, others):
        guest = torch.cat([self.there(t[:, :1]), others[:, 1:]], 1)
        return torch.cat([self.back(self.attn(guest)), t[:, 1:]], 1)

#| export
class DoubleLevelFusion(nn.Module):
    "Class tokens are exchanged (if they are), then transformer blocks run in each list."

    def __init__(
        self,
        widths: tuple,  # channels of both lists
        depths: tuple,  # transformer blocks in each
        heads: tuple,  # attention heads in each
        ratios: tuple,  # width of the MLP / channels in each
        exchange: bool = True,  # off: blocks alone
    ):
        super().__init__()
        a, b = widths
        both = [Exchange(a, b, heads[1]), Exchange(b, a, heads[0])] if exchange else []
        self.exchanges = nn.ModuleList(both)
        numbers = [*zip(widths, heads, ratios)]
        self.blocks = nn.ModuleList(
            nn.Sequential(*(vit_block(*one, eps=1e-5) for _ in range(depth)))
            for one, depth in zip(numbers, depths)
        )

    def forward(self, a, b):
        if self.exchanges:
            a, b = self.exchanges[0](a, b), self.exchanges[1](b, a)
        return self.blocks[0](a), self.blocks[1](b)


def conv_group_norm(
    c_in: int,  # input channels
    c_out: int,  # output channels, a multiple of 32
) -> nn.Sequential:
    "3×3 convolution without bias, group norm with 32 groups, ReLU."
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(32, c_out), nn.ReLU())


WIRINGS = ('released', 'first', 'paper')
HIFORMER_NAMES = (  # the authors' names and ours
    (r'^All2Cross\.', ''),
    (r'^pyramid\.resnet_layers\.0', 'pyramid.resnet.conv1'),
    (r'^pyramid\.resnet_layers\.1', 'pyramid.resnet.bn1'),
    (r'^pyramid\.resnet_layers\.(\d)', counted('pyramid.resnet.layers.{}', lambda i: i - 4)),
    (r'^pyramid\.p(\d)_ch', counted('pyramid.laterals.{}', lambda i: i - 1)),
    (r'^pyramid\.p(\d)_pm', counted('pyramid.merges.{}', lambda i: i - 1)),
    (r'^pyramid\.norm_(\d)', counted('class_norms.{}', lambda i: i - 1)),
    (r'^pyramid\.swin_transformer\.layers\.(\d)\.blocks', r'pyramid.stages.\1'),
    (r'^pos_embed\.(\d)', r'positions.\1.table'),
    (r'^norm\.', 'norms.'),
    (r'^blocks\.0\.projs\.(\d)', r'fusion.exchanges.\1.there'),
    (r'^blocks\.0\.revert_projs\.(\d)', r'fusion.exchanges.\1.back'),
    (r'^blocks\.0\.fusion\.(\d)\.norm1', r'fusion.exchanges.\1.attn.norm'),
    (r'^blocks\.0\.fusion\.(\d)\.attn\.w?', r'fusion.exchanges.\1.attn.'),
    (r'^blocks\.0\.blocks\.', 'fusion.blocks.'),
    (r'^ConvUp_l\.conv_tower\.', 'fine.'),
    (r'^ConvUp_s\.conv_tower\.([01])\.', r'coarse.0.\1.'),
    (r'^ConvUp_s\.conv_tower\.([45])\.', counted('coarse.1.{}.', lambda i: i - 4)),
    (r'^conv_pred\.0', 'squeeze'),
    (r'^segmentation_head\.0', 'head'),
)
HIFORMER_TWICE = (  # the same tensors under second names, and what is computed
    r'All2Cross\.pyramid\.p[123]\.',
    r'ConvUp_[ls]\.convs_level',
    r'.*(attn_mask|relative_position_index)$',
)
HIFORMER_DEAD = dict(  # what has no influence in each wiring
    released=(r'All2Cross\.blocks', r'All2Cross\.pyramid\.norm_'),
    first=(r'All2Cross\.blocks\.0\.(projs|fusion|revert_projs)\.',),
    paper=(),
)


class HiFormer(Rival):
    "ResNet and Swin in a pyramid, Double-Level Fusion, a light decoder (Fig. 2 of HiFormer)."

    authors = HIFORMER_NAMES

    def __init__(
        self,
        c_in: int = 3,  # image channels
        n_out: int = 9,  # classes
        *,
        encoder: str = 'resnet50',  # 'resnet50' (B) | 'resnet34' (S, L), or another ResNet of timm
        depths: tuple = (1, 2),  # blocks of the fusion: fine list, coarse list
        heads: tuple = (6, 12),  # their attention heads
        ratios: tuple = (2, 2),  # width of their MLPs / channels
        wiring: str = 'released',  # 'released' | 'first' | 'paper': see the table above
        width: int = 96,  # channels at stride 4
        swin_depths: tuple = (2, 2, 6),  # Swin blocks of each level
        swin_heads: tuple = (3, 6, 12),  # attention heads of each level
        drop_path: float = 0.1,  # share of images without the last Swin block; rises from 0
        up_width: int = 128,  # channels in the decoder
        encoder_options: dict | None = None,  # further keywords of timm's ResNet
        pretrained=False,  # False | True (ResNet and Swin-T from timm) | path of the ResNet's file
    ):
        super().__init__(c_in)
        choose(wiring, WIRINGS, 'wiring')
        widths, whole = (width, 4 * width), wiring != 'released'
        self.unused = HIFORMER_TWICE + HIFORMER_DEAD[wiring]
        levels = width, swin_depths, swin_heads, drop_path
        self.pyramid = Pyramid(self.c_net, encoder, *levels, pretrained, encoder_options)
        self.positions = nn.ModuleList(
            Positions(c, g, int(whole)) for c, g in zip(widths, (56, 14))
        )
        for one in self.positions:
            nn.init.trunc_normal_(one.table, std=0.02)
        self.class_norms = nn.ModuleList(nn.LayerNorm(c) for c in widths if whole)
        if whole:
            self.fusion = DoubleLevelFusion(widths, depths, heads, ratios, wiring == 'paper')
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in widths)
        self.fine = conv_group_norm(widths[0], up_width)
        coarse = conv_group_norm(widths[1], up_width), conv_group_norm(up_width, up_width)
        self.coarse = nn.ModuleList(coarse)
        self.squeeze, self.head = nn.Conv2d(up_width, 16, 1), nn.Conv2d(16, n_out, 3, padding=1)
        if pretrained is True:
            self.start_from(backbone_state(TIMM_SWIN, True))

    def logits(self, x):
        maps = self.pyramid(x)
        grids = [m.shape[1:3] for m in maps]
        tokens = self.with_places(maps, grids)
        if self.class_norms:
            tokens = [t[:, 1:] for t in self.fusion(*tokens)]
        a, b = (to_map(n(t), *g) for n, t, g in zip(self.norms, tokens, grids))
        for conv in self.coarse:
            b = twice(conv(b), align_corners=False)
        y = F.relu(self.squeeze(self.fine(a) + b))
        y = F.interpolate(y, scale_factor=4, mode='bilinear', align_corners=False)
        return [self.head(y)]

    def with_places(self, maps, grids):
        "Both lists of tokens, a class token in front if there is one, plus positions."
        lists = [m.flatten(1, 2) for m in maps]
        for i, norm in enumerate(self.class_norms):
            lists[i] = torch.cat([norm(lists[i]).mean(1, keepdim=True), lists[i]], 1)
        return [t + p(*g) for t, p, g in zip(lists, self.positions, grids)]

    def start_from(self, state):
        "Swin stages and mergings from Swin-T."
        state = translate(state, TIMM_SWIN_NAMES)
        return load_part(self.pyramid, state)

#| export
HIFORMER_SIZES = dict(
    s=dict(encoder='resnet34', depths=(1, 1), heads=(3, 3), ratios=(1, 1)),
    b=dict(encoder='resnet50', depths=(1, 2), heads=(6, 12), ratios=(2, 2)),
    l=dict(encoder='resnet34', depths=(1, 4), heads=(6, 6), ratios=(4, 4)),
)


@register_model(tags=('transformer', 'equal'))
def hiformer_s(c_in=3, n_out=2, **numbers):
    "HiFormer-S, wiring='released' | 'first' | 'paper' (Heidari et al. 2023); equal to their code."
    return HiFormer(c_in, n_out, **HIFORMER_SIZES['s'] | numbers)


@register_model(tags=('transformer', 'equal'))
def hiformer_b(c_in=3, n_out=2, **numbers):
    "HiFormer-B, wiring='released' | 'first' | 'paper' (Heidari et al. 2023); equal to their code."
    return HiFormer(c_in, n_out, **HIFORMER_SIZES['b'] | numbers)


@register_model(tags=('transformer', 'equal'))
def hiformer_l(c_in=3, n_out=2, **numbers):
    "HiFormer-L, 29.5 M in SNet's Table 4; 21.5 M of them count as released (wiring=…)."
    return HiFormer(c_in, n_out, **HIFORMER_SIZES['l'] | numbers)
