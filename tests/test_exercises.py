"""Every exercise of every page.

A stub prints only 'not yet', the folded solution is solved, and each check refuses wrong answers.
"""

import ast
import json
import re
from pathlib import Path

import pytest

from snetlib.course import assess

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
NO_STUB = {'check_split', 'check_swap', 'check_grid'}  # find the bug: the stub is a wrong answer


def cells(page):
    return [
        (c['cell_type'], ''.join(c['source'])) for c in json.loads(page.read_text(encoding='utf-8'))['cells']
    ]


def exercises(page):
    "(title, code of the check, code of the stub, code of the solution) of a page's exercises."
    found, title, code = [], None, []
    for kind, source in cells(page):
        if kind == 'markdown' and source.startswith('### Exercise'):
            title, code = source.splitlines()[0][4:], []
        elif title and kind == 'code':
            code.append(source)
        elif title and '<details>' in source:
            solution = re.search(r'```python\n(.*?)```', source, re.S)[1]
            found.append((title, code[0], code[-1], solution))
            title = None
    return found


def lesson(page):
    "What a reader has at the exercises: imports, functions and classes of the page, exported constants."
    names = {'__name__': '__main__'}  # as in a notebook, also for the registry of models
    wanted = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef
    inside = False  # an exercise, whose cells the test runs itself
    for kind, source in cells(page):
        inside = source.startswith('### Exercise') or (inside and '<details>' not in source)
        if inside or kind != 'code' or '%%' in source:
            continue
        constant = '#| export' in source
        for node in ast.parse(source).body:
            if isinstance(node, wanted) or (constant and isinstance(node, ast.Assign)):
                exec(compile(ast.Module([node], []), page.name, 'exec'), names)
    return names


# older pages have checks of another form, tested with their modules
STAGED = re.compile(r'from snetlib\.course import [^"]*\bblank\b')
CASES = [(p, *e) for p in PAGES if STAGED.search(p.read_text()) for e in exercises(p)]
LESSONS = {}


def namespace(page):
    if page not in LESSONS:
        LESSONS[page] = lesson(page)
    return LESSONS[page]


def self_check_of(stub):
    "(the stub without its last call, name of the check, expression of the answer)"
    tree = ast.parse(stub)
    call = tree.body.pop().value
    assert call.func.id == 'self_check', 'an exercise ends with its self-check'
    check, answer = call.args
    return tree, check.id, ast.unparse(answer)


@pytest.mark.parametrize(
    'page,title,check,stub,solution', CASES, ids=[f'{c[0].stem} {c[1][:24]}' for c in CASES]
)
def test_exercise(page, title, check, stub, solution):
    names = namespace(page)
    exec(check, names)
    tree, checked, answer = self_check_of(stub)
    exec(compile(tree, page.name, 'exec'), names)
    verdict = assess(names[checked], eval(answer, names))
    if 'blank' in stub:
        assert verdict == 'not yet'
    else:  # find the bug: the stub is a wrong answer
        assert verdict.startswith('not yet: ') and 'stopped with' not in verdict
    assert len(getattr(names[checked], 'hints', ())) >= 1, 'at least one hint'
    exec(solution, names)
    assert assess(names[checked], eval(answer, names)) == 'solved'
    wrong = WRONG.get(checked, [])
    assert len(wrong) >= 3, f'give {checked} of {page.name} three wrong answers'
    for lines in wrong:
        fresh = dict(names)
        value = eval(lines, fresh)
        verdict = assess(fresh[checked], value)
        assert verdict.startswith('not yet: '), f'{checked} accepts {lines}'


WRONG = {
    # 4_models/02_feb
    'check_tokens': ['(8, 6400, 4000)', '(16, 1600, 400)', '(16, 3200, 400)'],
    'check_attention': [
        'lambda q, k, v: q',
        'lambda q, k, v: (q @ k.transpose(1, 2)).softmax(-1) @ v',
        'lambda q, k, v: (q @ k.transpose(1, 2) / 2).softmax(1) @ v',
    ],
    'check_split': [
        'lambda a, b, width: (a, b)',
        'lambda a, b, width: (b, a)',
        'lambda a, b, width: (a, 2 * b)',
        'lambda a, b, width: (a, b.flip(-1))',
    ],
    'check_share': ['lambda f, a, b: 1', 'lambda f, a, b: 0', 'lambda f, a, b: f(a, b)[1].abs().mean()'],
}
WRONG |= {  # 4_models/03_ffb
    'check_channels': ['(256, 320, 384, 128)', '(64, 320, 128, 128)', '(64, 256, 384, 128)'],
    'check_second_half': [
        'lambda a, c, conv: conv(torch.cat([a, c], 1))',
        'lambda a, c, conv: torch.nn.functional.gelu(conv(torch.cat([c, a], 1)))',
        'lambda a, c, conv: torch.nn.functional.gelu(conv(c))',
    ],
    'check_groups': ['lambda i, o: 1', 'lambda i, o: min(i, o)', 'lambda i, o: i // 5'],
    'check_ignore': [
        'lambda f: None',
        'lambda f: f.mix.weight.zero_()',
        'lambda f: f.mix.weight[:, :4].zero_()',
        'lambda f: f.mix.weight[:, 16:].zero_()',
    ],
}
WRONG |= {  # 4_models/04_gab
    'check_sums': ['(2, 1)', '(3, 3)', '(2, 2)'],
    'check_eq8': [
        'lambda a, b: attention(a, a, a) + attention(b, b, b) + b',
        'lambda a, b: attention(a, a, b) + attention(b, b, b) + a',
        'lambda a, b: attention(a, a, a) + attention(b, b, a)',
    ],
    'check_swap': [
        'lambda a, b: attention(a, a, a)',
        'lambda a, b: attention(b, a, a)',
        'lambda a, b: attention(a, b, a)',
    ],
    'check_itself': ['lambda s: 0.01', 'lambda s: 1.0', 'lambda s: 0.01 + 0.99 * (s > 1)'],
}
WRONG |= {  # 4_models/08_cross_scale
    'check_arrows': ['(20, 4, 20)', '(10, 5, 20)', '(10, 4, 10)'],
    'check_steps': [
        "lambda w, x, r: [(w[i - 1], w[i], 'relu') for i in range(x, r)]",
        "lambda w, x, r: [(w[i - 1], w[i], 'none') for i in range(x, r)]",
        "lambda w, x, r: [(w[x - 1], w[r - 1], 'none')]",
    ],
    'check_given': [
        'lambda m, f: m',
        'lambda m, f: [m[0], m[1] + f[1, 2](m[0]), m[2] + f[2, 3](m[1])]',
        'lambda m, f: [m[0], m[1] + f[1, 2](m[0]), m[2] + f[1, 3](m[0]) + f[2, 3](m[1] + f[1, 2](m[0]))]',
    ],
    'check_smallest': ['lambda k: 2**k', 'lambda k: 5', 'lambda k: 128', 'lambda k: 2 ** (k + 2)'],
}
WRONG |= {  # 4_models/10_stageformer
    'check_pairs': ['(16, 384, 16)', '(48, 6144, 16)', '(48, 384, 4)'],
    'check_unfold': [
        'lambda x: to_tokens(x)',
        'lambda x: unfold_patches(x).flip(0)',
        'lambda x: unfold_patches(x.transpose(2, 3))',
        'lambda x: unfold_patches(x).unflatten(0, (2, 4)).transpose(0, 1).flatten(0, 1)',
    ],
    'check_residual': [
        'lambda net, x: x',
        'lambda net, x: net(x) + net.local(x)',
        'lambda net, x: net.fuse(torch.cat([net.local(x), net.global_features(net.local(x))], 1))',
        'lambda net, x: x + net.fuse(torch.cat([net.local(x), net.global_features(x)], 1))',
    ],
    'check_seen': ['lambda patch: 256', 'lambda patch: 9', 'lambda patch: (16 // patch) ** 2'],
}
WRONG |= {  # 4_models/06_fusion
    'check_adapters': ['(2, 2, 2, 4)', '(0, 0, 2, 2)', '(0, 2, 2, 3)'],
    'check_rule': [
        "lambda c, v: PAIRS['stagger']",
        'lambda c, v: [(a, b) for a in c for b in v if c[a][1] == v[b][1]]',
        'lambda c, v: [(a, b) for a in c for b in v if c[a][0] == 4 * v[b][0]]',
        'lambda c, v: [(a, b) for a in c for b in v if c[a] == v[b]]',
    ],
    'check_place': [
        'lambda c, v, pairs, f: c',
        "lambda c, v, pairs, f: c[:2] + ['C3V1', 'C4V2']",
        'lambda c, v, pairs, f: c[:2] + [f(c[2], v[2]), f(c[3], v[3])]',
    ],
    'check_gap': ['lambda conv, x: 0', 'lambda conv, x: 1', 'lambda conv, x: conv(x).abs().max()'],
}
WRONG |= {  # 4_models/05_branches
    'check_keys': ['(49152, 48, 64)', '(3072, 384, 8)', '(3072, 48, 8)'],
    'check_grid_size': [
        'lambda n, k, stride: n',
        'lambda n, k, stride: n // stride',
        'lambda n, k, stride: (n - k) // stride + 1',
        'lambda n, k, stride: (n + k - 1) // stride',
    ],
    'check_vit_block': [
        'lambda block, t, h, w: t',
        'lambda block, t, h, w: t + block.attn(block.norm1(t), h, w)',
        'lambda block, t, h, w: block.attn(block.norm1(t), h, w) + block.ffn(block.norm2(t), h, w)',
    ],
    'check_window': [
        'lambda i: 5',
        'lambda i: 4 * i + 1',
        'lambda i: 96',
        'lambda i: (5, 14, 32, 68)[i - 1]',
    ],
}
WRONG |= {  # 4_models/09_aspp
    'check_rate': ['(15, 4, 9)', '(11, 1, 9)', '(11, 4, 4)'],
    'check_holes': [
        'lambda w, rate: w',
        'lambda w, rate: F.interpolate(w, size=(2 * rate + 1, 2 * rate + 1))',
        'lambda w, rate: F.pad(w, (rate - 1,) * 4)',
    ],
    'check_size': [
        'lambda x, w, rate: x',
        'lambda x, w, rate: F.conv2d(x, w, padding=1)',
        'lambda x, w, rate: F.pad(F.conv2d(x, w, padding=1, dilation=rate), (rate - 1,) * 4)',
    ],
    'check_largest': ['lambda n: 1', 'lambda n: n - 1', 'lambda n: n // 3', 'lambda n: 12'],
}
WRONG |= {  # 4_models/07_snet
    'check_shapes': ['((64, 24, 40), (6, 10))', '((32, 12, 20), (6, 10))', '((32, 24, 40), (3, 5))'],
    'check_step': [
        'lambda conv, x, skip: skip',
        'lambda conv, x, skip: conv(torch.cat([skip, resize_to(x, skip)], 1))',
        'lambda conv, x, skip: conv(torch.cat([x, resize_to(skip, x)], 1))',
        'lambda conv, x, skip: torch.cat([resize_to(x, skip), skip], 1)',
    ],
    'check_crop': [
        'lambda net, x: x',
        'lambda net, x: net(pad_to(x, 32))',
        'lambda net, x: net(x)',
        'lambda net, x: net(resize_to(x, pad_to(x, 32)))',
    ],
    'check_cost': [
        'lambda **kw: 0',
        "lambda **kw: count_parameters(create_model('snet_tiny', **kw))",
        "lambda **kw: count_parameters(create_model('snet_tiny')) - "
        "count_parameters(create_model('snet_tiny', **kw))",
    ],
}
WRONG |= {  # 4_models/11_sosegformer
    'check_sizes': [
        '((100, 200), (3, 6), (50, 100))',
        '((128, 224), (4, 7), (128, 224))',
        '((128, 224), (8, 14), (64, 112))',
    ],
    'check_up': [
        'lambda up, skip, former, y, R: former(skip(R))',
        'lambda up, skip, former, y, R: former(skip(torch.cat([R, up(y)], 1)))',
        'lambda up, skip, former, y, R: skip(former(torch.cat([up(y), R], 1)))',
    ],
    'check_head': [
        'lambda maps, w, b: F.conv2d(maps[0], w[:, :2], b)',
        'lambda maps, w, b: naive_head(maps, lambda m: F.conv2d(m, w))',
        'lambda maps, w, b: naive_head(maps, lambda m: F.conv2d(m, w, 3 * b))',
    ],
    'check_saved': [
        'lambda row: 0.1',
        "lambda row: count_parameters(create_model(row, size='tiny')) / 2e6",
        "lambda row: count_parameters(create_model('sosegformer_tiny')) - "
        "count_parameters(create_model(row, size='tiny'))",
    ],
}
WRONG |= {  # tutorials/03_build_snet
    'check_my_feb': [
        "type('F', (MyFEB,), {'forward': lambda s, a, b: (a, b)})",
        "type('F', (MyFEB,), {'forward': lambda s, a, b: (s.dw[0](a), s.dw[1](b))})",
        "type('F', (MyFEB,), {'forward': lambda s, a, b: MyFEB.forward(s, a, b)[:1]})",
        "type('F', (MyFEB,), {'forward': lambda s, a, b: MyFEB.forward(s, b, a)[::-1]})",
    ],
    'check_my_ffb': [
        "type('F', (MyFFB,), {'forward': lambda s, c, t: c})",
        "type('F', (MyFFB,), {'forward': lambda s, c, t: s.dw(torch.cat([c, t], 1))})",
        "type('F', (MyFFB,), {'forward': lambda s, c, t: s.fuse(torch.cat([c, t, t], 1))})",
        'lambda d: MyFFB(2 * d)',
    ],
    'check_my_gab': [
        "type('G', (MyGAB,), {'forward': lambda s, a, b: s.align3(a)})",
        "type('G', (MyGAB,), {'forward': lambda s, a, b: s.align3(a) + resize_like(s.align4(b), a)})",
        "type('G', (MyGAB,), {'forward': lambda s, a, b: resize_like(s.align4(b), b)})",
        "type('G', (MyGAB,), {'forward': lambda s, a, b: MyGAB.forward(s, a, 0 * b)})",
    ],
    'check_wiring': [
        'lambda net, x: net.cnn(x)[0]',
        'lambda net, x: net.head(net.cnn(x)[0])',
        'lambda net, x: 2 * net(x)',
        'lambda net, x: my_snet(net, x.flip(-2))',
    ],
    'check_dice_loss': [
        'lambda net, place, slices: 0',
        'lambda net, place, slices: -loss_of_dice(net, place, slices)',
        'lambda net, place, slices: loss_of_dice(net, place, slices[:1])',
        'lambda net, place, slices: 3 * loss_of_dice(net, place, slices)',
    ],
}
WRONG |= {  # tutorials/04_train_snet
    'check_steepest': [
        'lambda r, y: r[y.argmin()]',
        'lambda r, y: 0.003',
        'lambda r, y: r[np.gradient(y, r).argmin()]',
    ],
    'check_loop': [
        'lambda net, x, y, opt, steps: None',
        'lambda net, x, y, opt, steps: nn.init.zeros_(net.weight)',
        'lambda net, x, y, opt, steps: [((net(x) - y).square().mean().backward(), opt.step()) '
        'for _ in range(steps)]',
    ],
    'check_shift': [
        'lambda i, m: m.any(0).argmax() - 10',
        'lambda i, m: 0',
        'lambda i, m: 11',
        'lambda i, m: m.any(0).argmax()',
    ],
    'check_schedule': ['(0.5, 0.1)', '(0.54, 0.9)', '(0.46, 0.13)'],
}
WRONG |= {  # tutorials/05_measuring_honestly
    'check_my_dice': [
        'lambda c: np.ones(len(c) - 1)',
        'lambda c: 2 * np.diagonal(c) / (c.sum(0) + c.sum(1))',
        'lambda c: (np.diagonal(c) / (c.sum(0) + c.sum(1) - np.diagonal(c)))[1:]',
    ],
    'check_cheat': ['(0.0, 0.4)', '(1.0, 0.0)', '(0.4, 0.4)'],
    'check_my_hd95': [
        'lambda a, b: max(np.percentile(np.linalg.norm(a[:, None] - b[None], axis=-1).min(k), 95) '
        'for k in (0, 1))',
        'lambda a, b: 0',
        'lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1).min(1).max()',
        'lambda a, b: np.percentile(np.linalg.norm(a[:, None] - b[None], axis=-1), 95)',
    ],
    'check_coverage': [
        'lambda n: 0.9',
        'lambda n: 1 - 1 / n',
        'lambda n: 1',
        'lambda n: 0.95',
        'lambda n: 0.8',
    ],
}
WRONG |= {  # tutorials/06_small_objects
    'check_left': ['(1, 1)', '(5 / 8, 5 / 32)', '(25 / 64, 25 / 32)'],
    'check_recall': [
        'lambda t, limit: t[(t.kind == "true") & (t.area <= limit)].found.mean()',
        'lambda t, limit: 0.5',
        'lambda t, limit: t[t.area < limit].found.mean()',
        "lambda t, limit: t[(t.kind == 'true') & (t.area > limit)].found.mean()",
    ],
    'check_gift': ['(0, 1, 0.5)', '(0.5, 0.999, 0.75)', '(0, 0.999, 0.999)'],
    'check_one_pixel': ['lambda s: 1', 'lambda s: 1 - 1 / s**2', 'lambda s: (s - 1) / (s + 1)'],
}
WRONG |= {  # tutorials/07_your_own_data
    'check_values': [
        "{'0': 0, '128': 2, '255': 1}",
        "{0: 0, 128: 1, 255: 2}",
        "{'0': 0, '255': 1}",
    ],
    'check_pairs_by_name': [
        "lambda i, m: [(f'{n}.png', f'{n}.tif') for n in 'acd']",
        'lambda i, m: list(zip(i, m))',
        'lambda i, m: list(zip(sorted(i), sorted(m)))',
        'lambda i, m: []',
    ],
    'check_group': [r"r'P\d\d_left'", r"r'\d+'", "r'P'", r"r'P\d\d'"],
    'check_where': [
        'lambda a, v: a[:3, :3] @ v',
        'lambda a, v: np.array(v, float)',
        'lambda a, v: np.linalg.inv(a)[:3] @ [*v, 1]',
    ],
}
WRONG |= {  # tutorials/08_reproducing_a_table
    'check_spread': [
        'lambda v: (v.mean(), v.std(), v.std())',
        'lambda v: (v.mean(), v.mean(1).std(ddof=1), v.mean(0).std(ddof=1))',
        'lambda v: (v.mean(), v.mean(0).std(), v.mean(1).std())',
    ],
    'check_paired': [
        'lambda a, b: (np.mean(b - a), np.mean(b - a) - 0.6, np.mean(b - a) + 0.6)',
        'lambda a, b: bootstrap_ci(a - b)',
        'lambda a, b: bootstrap_ci(b)',
        'lambda a, b: bootstrap_ci(np.sort(b) - a)',
    ],
    'check_verdict': [
        "lambda low, high, claimed: 'direction'",
        "lambda low, high, claimed: 'direction' if low > 0 else 'undecided'",
        "lambda low, high, claimed: 'direction' if (low + high) * claimed > 0 else 'opposite'",
    ],
    'check_chance': ['0.05', '0.5', '0.95**10'],
}
WRONG |= {  # 2_theory/00_entropy
    'check_channel': ['lambda e: 1', 'lambda e: 1 - e', 'lambda e: 1 - 4 * e * (1 - e)'],
    'check_forgotten': [
        'lambda p, f: entropy(p) - entropy(push_forward(p, f))',
        'lambda p, f: {y: entropy(p) - entropy(push_forward(p, f)) for y in np.unique(f)}',
        'lambda p, f: {y: 0.0 for y in np.unique(f)}',
        'lambda p, f: {y: float(p[f == y].sum()) for y in np.unique(f)}',
        'lambda p, f: {y: float(entr(p[f == y]).sum() / np.log(2)) for y in np.unique(f)}',
    ],
    'check_price': [
        'lambda: [0.8, 1.0, 1.2, 1.4]',
        'lambda: [gaussian_mi(0.95)] * 4',
        'lambda: [mi_from_samples(*np.random.default_rng(0).multivariate_normal('
        '[0, 0], [[1, 0.5], [0.5, 1]], 9999).T, bins=k) for k in (2, 4, 8, 16)]',
    ],
    'check_table': ['np.eye(2) / 2', 'np.full((2, 2), 0.25)', 'np.outer([1, 0], [0.9, 0.1])'],
}
WRONG |= {  # 2_theory/01_han
    'check_profile': [
        'np.full((2, 2, 2), 1 / 8)',
        'np.eye(8)[0].reshape(2, 2, 2)',
        'np.eye(8)[[0, 7]].mean(0).reshape(2, 2, 2)',
    ],
    'check_width': [
        '(lambda a, b, mi: a + b - mi, lambda a, b, mi, n: 1)',
        '(lambda a, b, mi: a + b - mi, lambda a, b, mi, n: regime(n, a + b))',
        '(lambda a, b, mi: a + b - mi, lambda a, b, mi, n: regime(n, max(a, b)))',
        '(lambda a, b, mi: a + b - mi, lambda a, b, mi, n: 1 + (n > 7) + (n > 8))',
        '(lambda a, b, mi: a + b, lambda a, b, mi, n: regime(n, a + b - mi))',
        '(lambda a, b, mi: max(a, b), lambda a, b, mi, n: regime(n, a + b - mi))',
    ],
    'check_fool': [
        '(np.eye(4) / 4, np.full((4, 4), 1 / 16))',
        '(np.full((4, 4), 1 / 16), np.fliplr(np.diag([0.4, 0.3, 0.2, 0.1])))',
        '(np.fliplr(np.diag([0.9, 0.1])), np.outer([0.9, 0.1], [0.9, 0.1]))',
    ],
}
WRONG |= {  # 2_theory/02_divergences to 04_pairs
    'check_sorting': [
        'lambda x, y: abs(np.mean(x) - np.mean(y))',
        'lambda x, y: np.abs(np.array(x) - np.array(y)).mean()',
        'lambda x, y: (np.sort(x) - np.sort(y)).mean()',
    ],
    'check_cka': [
        'lambda x, y: 1.0',
        'lambda x, y: np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))',
        'lambda x, y: np.corrcoef(x[:, 0], y[:, 0])[0, 1]',
        'lambda x, y: linear_cka(x, y, debiased=True)',
    ],
    'check_disguise': ['lambda x: x', 'lambda x: 10 + x**2', 'lambda x: 10 + smooth_fields(7, c=4)'],
    'check_blind': [
        '(smooth_fields(1, c=2), smooth_fields(2, c=2))',
        '(np.random.default_rng(0).normal(size=(8, 2, 16, 16)), '
        'np.random.default_rng(1).normal(size=(8, 2, 16, 16)))',
        '(lambda z: (z, z))(np.random.default_rng(0).normal(size=(8, 2, 16, 16)))',
        '(lambda z: (z, z**2))(np.random.default_rng(0).normal(size=(8, 2, 16, 16)) * [[[[3]], [[1]]]])',
    ],
}
WRONG |= {  # tutorials/02_which_layers_meet
    'check_fit': ['set()', '{(2, 1)}', '{(2, 1), (3, 2), (4, 3)}', '{(1, 1), (2, 2)}'],
    'check_floor': [
        'lambda t: [0.2, 1, 0]',
        'lambda t: t.mi - t.mi_floor',
        'lambda t: t.mi',
        'lambda t: (t.mi_floor - t.mi).clip(lower=0)',
        'lambda t: [(t.mi - t.mi_floor).clip(lower=0).mean()]',
    ],
    'check_rank': [
        'lambda t, c, v: int(v[-1])',
        'lambda t, c, v: int((t[t.b == v].kl < t[(t.a == c) & (t.b == v)].kl.item()).sum()) + 1',
        'lambda t, c, v: int((t[t.a == c].kl < t[(t.a == c) & (t.b == v)].kl.item()).sum())',
    ],
}
WRONG |= {  # tutorials/01_why_stagger
    'check_bits': ['(6, 2)', '(5, 0)', '(4, 1)'],
    'check_information': [
        'lambda p: entropy(p)',
        'lambda p: entropy(marginal(p, 0)) + entropy(marginal(p, 1))',
        'lambda p: entropy(p) - entropy(marginal(p, 0)) - entropy(marginal(p, 1))',
    ],
    'check_unpaired': [
        'lambda p: p',
        'lambda p: np.full(p.shape, 1 / p.size)',
        'lambda p: np.outer(marginal(p, 1), marginal(p, 0))',
        'lambda p: p[::-1]',
    ],
    'check_cheapest': [
        'lambda t: 1',
        'lambda t: int(np.argmax([joint_entropy(p) for p in t]))',
        'lambda t: int(np.argmin([mutual_information(p) for p in t]))',
        'lambda t: int(np.argmax([mutual_information(p) for p in t]))',
    ],
}
