"models.missformer"
#| export
import torch
import torch.nn.functional as F
from snetlib.core import NotAtHand
from snetlib.models.branches import PatchEmbed, ReducedAttention
from snetlib.models.bricks import PatchExpand
from snetlib.models.contract import Rival, counted
from snetlib.models.layers import attention, to_map, to_tokens
from snetlib.models.registry import register_model
from torch import nn

#| export
class SkipMixFFN(nn.Module):
    "Linear, plus its 3×3 depth-wise convolution, LayerNorm, GELU, linear."

    def __init__(
        self,
        c: int,  # channels
        ratio: int = 4,  # hidden width / c
    ):
        super().__init__()
        hidden = ratio * c
        self.fc1, self.fc2 = nn.Linear(c, hidden), nn.Linear(hidden, c)
        self.dw = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, t, h, w):
        u = self.fc1(t)
        v = to_tokens(self.dw(to_map(u, h, w)))
        return self.fc2(F.gelu(self.norm(u + v)))


class MixBlock(nn.Module):
    "t + attention(LN t), then t + FFN(LN t)."

    def __init__(
        self,
        c: int,  # channels
        heads: int,  # attention heads
        reduction: int,  # how much coarser the grid of keys is
    ):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(c), ReducedAttention(c, heads, reduction)
        self.norm2, self.ffn = nn.LayerNorm(c), SkipMixFFN(c)

    def forward(self, t, h, w):
        t = t + self.attn(self.norm1(t), h, w)
        return t + self.ffn(self.norm2(t), h, w)


class MixStage(nn.ModuleList):
    "Several blocks on one grid."

    def __init__(self, c, depth, heads, reduction):
        super().__init__(MixBlock(c, heads, reduction) for _ in range(depth))

    def forward(self, t, h, w):
        for block in self:
            t = block(t, h, w)
        return t

#| export
class BridgeAttention(nn.Module):
    "Every token of every scale asks; tokens on the coarsest grid answer. One head."

    def __init__(
        self,
        c: int,  # channels of a token
        widths: tuple,  # channels of the maps
        reductions: tuple,  # how much finer than the coarsest grid each map is
    ):
        super().__init__()
        self.c = c
        self.q, self.kv, self.proj = nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        finer = [(w, r) for w, r in zip(widths, reductions) if r > 1]
        self.reduces = nn.ModuleList(nn.Conv2d(w, w, r, r) for w, r in finer)
        self.norm = nn.LayerNorm(c)

    def forward(self, lists, grids):
        "`lists`: tokens (b, n, c) of each scale; `grids`: rows and columns of each."
        answers = [self.reduced(*one) for one in zip(self.reduces, lists, grids)]
        answers += lists[len(answers) :]
        k, v = self.kv(self.norm(torch.cat(answers, 1))).chunk(2, -1)
        return self.proj(attention(self.q(torch.cat(lists, 1)), k, v))

    def reduced(self, conv, t, grid):
        "Tokens on the coarsest grid. The order of channels and places is the authors'."
        x = conv(to_map(widen(t, grid), *grid))
        return x.flatten(1).unflatten(1, (self.c, -1)).transpose(1, 2)


def widen(
    t: torch.Tensor,  # tokens (b, n, c)
    grid: tuple,  # rows and columns
) -> torch.Tensor:
    "One token for each place: (b, h·w, all channels)."
    return t.flatten(1).unflatten(1, (grid[0] * grid[1], -1))


def narrow(
    t: torch.Tensor,  # tokens (b, h·w, all channels)
    c: int,  # channels of a narrow token
) -> torch.Tensor:
    "Several narrow tokens for each place: (b, n, c)."
    return t.flatten(1).unflatten(1, (-1, c))

#| export
class BridgeLayer(nn.Module):
    "Attention over all scales, then a feed-forward network for each scale on its own grid."

    def __init__(self, c, widths, reductions):
        super().__init__()
        self.c, self.widths = c, widths
        self.norm1, self.attn = nn.LayerNorm(c), BridgeAttention(c, widths, reductions)
        self.norm2, self.ffns = nn.LayerNorm(c), nn.ModuleList(map(SkipMixFFN, widths))

    def forward(self, t, grids):
        t = t + self.attn(self.split(self.norm1(t), grids), grids)
        scales = zip(self.ffns, self.split(self.norm2(t), grids), grids)
        return t + torch.cat([narrow(ffn(widen(p, g), *g), self.c) for ffn, p, g in scales], 1)

    def split(self, t, grids):
        "The tokens of each scale."
        sizes = [h * w * wide // self.c for (h, w), wide in zip(grids, self.widths)]
        return list(t.split(sizes, 1))

#| export
MISSFORMER_NAMES = (  # the authors' names and ours
    (r'^backbone\.patch_embed(\d)', counted('embeds.{}', lambda i: i - 1)),
    (r'^backbone\.block(\d)', counted('stages.{}', lambda i: i - 1)),
    (r'^backbone\.norm(\d)', counted('norms.{}', lambda i: i - 1)),
    (r'attn\.sr\.', 'attn.reduce.'),
    (r'\.mlp\.', '.ffn.'),
    (r'^bridge\.bridge_layer(\d)', counted('bridge.{}', lambda i: i - 1)),
    (r'attn\.scale_reduce\.sr(\d)', r'attn.reduces.\1'),
    (r'attn\.scale_reduce\.norm', 'attn.norm'),
    (r'mixffn(\d)', counted('ffns.{}', lambda i: i - 1)),
    (r'(ffns?[.\d]*)\.norm1', r'\1.norm'),
    (r'dwconv\.dwconv', 'dw'),
    (r'^decoder_0\.layer_up', 'last'),
    (r'^decoder_0\.last_layer', 'head'),
    (r'^decoder_(\d)\.layer_up', counted('expands.{}', lambda i: 3 - i)),
    (r'^decoder_(\d)\.concat_linear', counted('joins.{}', lambda i: 2 - i)),
    (
        r'^decoder_(\d)\.layer_former_(\d)',
        counted('ups.{}.{}', lambda i, j: (2 - i, j - 1)),
    ),
)
MISSFORMER_UNUSED = (  # 7.0 million parameters of the authors' code that never run
    r'.*(mlp|mixffn\d)\.norm[23]',
    r'decoder_3\.(concat_linear|layer_former)',
)


class MISSFormer(Rival):
    "Encoder, bridge over all scales, decoder (Fig. 2 of MISSFormer)."

    authors, unused = MISSFORMER_NAMES, MISSFORMER_UNUSED

    def __init__(
        self,
        c_in: int = 3,  # image channels
        n_out: int = 9,  # classes
        *,
        widths: tuple = (64, 128, 320, 512),  # channels of the stages, multiples of the first
        depths: tuple = (2, 2, 2, 2),  # blocks of each stage of the encoder
        heads: tuple = (1, 2, 5, 8),  # attention heads of each stage, on both sides
        reductions: tuple = (8, 4, 2, 1),  # how much coarser the grid of keys is
        bridges: int = 4,  # layers of the bridge
        blocks: int = 2,  # of each stage of the decoder
        pretrained=False,  # the paper has none: True is refused
    ):
        super().__init__(c_in)
        if pretrained:
            raise NotAtHand(
                'MISSFormer was published without a pre-trained encoder; '
                'leave pretrained=False, or load a checkpoint by weights=PATH.',
                key='pretrained',
            )
        c, self.c = widths[0], widths[0]
        embeds = zip((self.c_net, *widths), widths, (7, 3, 3, 3), (4, 2, 2, 2))
        numbers = [*zip(widths, depths, heads, reductions)]
        self.embeds = nn.ModuleList(PatchEmbed(*one) for one in embeds)
        self.stages = nn.ModuleList(MixStage(*one) for one in numbers)
        self.norms = nn.ModuleList(nn.LayerNorm(w) for w in widths)
        self.bridge = nn.ModuleList(BridgeLayer(c, widths, reductions) for _ in range(bridges))
        self.expands = nn.ModuleList(PatchExpand(w, w // 2) for w in widths[:0:-1])
        finer = [*zip(widths[:0:-1], numbers[2::-1])]
        self.joins = nn.ModuleList(nn.Linear(below // 2 + n[0], n[0]) for below, n in finer)
        self.ups = nn.ModuleList(MixStage(w, blocks, h, r) for _, (w, _, h, r) in finer)
        self.last, self.head = PatchExpand(c, c, 4), nn.Conv2d(c, n_out, 1)
        for part in (self.joins, self.ups, self.expands, self.last, self.head):
            part.apply(init_decoder)

    def logits(self, x):
        maps = self.encode(x)
        grids = [tuple(m.shape[-2:]) for m in maps]
        t = torch.cat([narrow(to_tokens(m), self.c) for m in maps], 1)
        for layer in self.bridge:
            t = layer(t, grids)
        skips = [widen(part, g) for part, g in zip(self.bridge[0].split(t, grids), grids)]
        return [self.decode(skips, grids)]

    def encode(self, x):
        "The maps of the four stages, finest first."
        maps = []
        for embed, stage, norm in zip(self.embeds, self.stages, self.norms):
            t, h, w = embed(x)
            x = to_map(norm(stage(t, h, w)), h, w)
            maps.append(x)
        return maps

    def decode(self, skips, grids):
        "Logits from the bridge's tokens of each scale."
        *skips, x = skips
        steps = zip(self.expands, self.joins, self.ups, skips[::-1], grids[3:0:-1], grids[2::-1])
        for expand, join, stage, skip, below, grid in steps:
            x = expand(x.unflatten(1, below)).flatten(1, 2)
            x = stage(join(torch.cat([x, skip], -1)), *grid)
        return self.head(self.last(x.unflatten(1, grids[0])).permute(0, 3, 1, 2))


def init_decoder(module):
    "Linear layers and convolutions Xavier-uniform, biases zero."
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

#| export
@register_model(tags=('transformer', 'equal'))
def missformer(c_in=3, n_out=2, **numbers):
    "MISSFormer, 35 M parameters that run (Huang et al. 2021); output equal to the authors' code."
    return MISSFormer(c_in, n_out, **numbers)
