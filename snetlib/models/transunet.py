"models.transunet"
#| export
import torch
from snetlib.models.bricks import (
    CascadedUpsampler,
    HybridStem,
    Positions,
    backbone_state,
    load_part,
    vit_block,
)
from snetlib.models.contract import Rival, counted, translate
from snetlib.models.layers import ConvNormAct, to_map, to_tokens
from snetlib.models.registry import register_model
from torch import nn

#| export
TRANSUNET_NAMES = (  # the authors' names and ours
    (r'^transformer\.embeddings\.hybrid_model\.root\.gn', 'stem.norm'),
    (r'^transformer\.embeddings\.hybrid_model\.(root|body)\.', 'stem.'),
    (r'block(\d)\.unit(\d+)', counted('stages.{}.{}', lambda i, j: (i - 1, j - 1))),
    (r'\.gn(\d)', r'.norm\1'),
    (r'downsample\.(?=weight)', 'downsample.conv.'),
    (r'gn_proj', 'downsample.norm'),
    (r'^transformer\.embeddings\.patch_embeddings', 'embed'),
    (r'^transformer\.embeddings\.position_embeddings', 'positions.table'),
    (r'^transformer\.encoder\.layer', 'blocks'),
    (r'^transformer\.encoder\.encoder_norm', 'norm'),
    (r'attention_norm', 'norm1'),
    (r'ffn_norm', 'norm2'),
    (r'attn\.(query|key|value)', 'attn.qkv'),
    (r'attn\.out', 'attn.proj'),
    (r'\.ffn\.', '.mlp.'),
    (r'^decoder\.conv_more\.0', 'neck.conv'),
    (r'^decoder\.conv_more\.1', 'neck.norm'),
    (r'^decoder\.blocks', 'decoder'),
    (r'conv([12])\.0', counted('{}.conv', lambda i: i - 1)),
    (r'conv([12])\.1', counted('{}.norm', lambda i: i - 1)),
    (r'^segmentation_head\.0', 'head'),
)
TIMM_HYBRID = 'vit_base_r50_s16_224.orig_in21k'
TIMM_HYBRID_NAMES = (  # timm's names and ours
    (r'^patch_embed\.backbone\.stem\.', 'stem.'),
    (r'^patch_embed\.backbone\.stages\.(\d)\.blocks', r'stem.stages.\1'),
    (r'^patch_embed\.proj', 'embed'),
    (r'^pos_embed', 'positions.table'),
)


class TransUNet(Rival):
    "ResNet to stride 16, a transformer on its cells, the cascaded upsampler (Fig. 1 of TransUNet)."

    authors = TRANSUNET_NAMES

    def __init__(
        self,
        c_in: int = 3,  # image channels
        n_out: int = 9,  # classes
        *,
        units: tuple = (3, 4, 9),  # bottlenecks of the stem's stages
        stem_width: int = 64,  # channels of its first convolution
        width: int = 768,  # of the tokens
        depth: int = 12,  # transformer blocks
        heads: int = 12,  # of attention
        neck: int = 512,  # channels between transformer and decoder
        widths: tuple = (256, 128, 64, 16),  # of the decoder
        skips: int = 3,  # how many maps of the stem reach the decoder, deepest first
        drop: float = 0.1,  # dropout of tokens and MLPs
        pretrained=False,  # False | True (timm's hybrid, ImageNet-21k) | path of its weights file
    ):
        super().__init__(c_in, multiple=16)
        self.skips = skips
        self.stem = HybridStem(self.c_net, units, stem_width)
        self.embed = nn.Conv2d(self.stem.widths[3], width, 1)
        self.positions, self.drop = Positions(width, 14), nn.Dropout(drop)
        self.blocks = nn.Sequential(*(vit_block(width, heads, drop=drop) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.neck = ConvNormAct(width, neck)
        beside = (*self.stem.widths[2::-1][:skips], 0, 0, 0, 0)
        self.decoder = CascadedUpsampler(neck, widths, beside)
        self.head = nn.Conv2d(widths[-1], n_out, 3, padding=1)
        for block in self.blocks:
            init_mlp(block.mlp)
        if pretrained:
            self.start_from(backbone_state(TIMM_HYBRID, pretrained, self.c_net))

    def logits(self, x):
        *skips, x = self.stem(x)
        h, w = x.shape[-2:]
        t = self.drop(to_tokens(self.embed(x)) + self.positions(h, w))
        t = self.norm(self.blocks(t))
        y = self.decoder(self.neck(to_map(t, h, w)), skips[::-1][: self.skips])
        return [self.head(y)]

    def start_from(self, state):
        "Stem, positions and blocks from timm's hybrid; its class token's position is left out."
        state = translate(state, TIMM_HYBRID_NAMES)
        state['positions.table'] = state['positions.table'][:, 1:]
        return load_part(self, state)


def init_mlp(mlp):
    "Weights Xavier-uniform, biases nearly zero, as the authors start."
    for layer in (mlp.fc1, mlp.fc2):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(layer.bias, std=1e-6)

#| export
@register_model(tags=('transformer', 'equal'))
def transunet(c_in=3, n_out=2, **numbers):
    "TransUNet, 105 M parameters (Chen et al. 2021); the authors' weights give the authors' output."
    return TransUNet(c_in, n_out, **numbers)


@register_model(tags=('transformer', 'equal'))
def r50_vit(c_in=3, n_out=2, **numbers):
    "TransUNet without skips, 104 M parameters: the 'R50 ViT' of its paper (Chen et al. 2021)."
    return TransUNet(c_in, n_out, **dict(skips=0) | numbers)
