"How the house stands, in numbers: `python .ci/metrics.py [CHECKOUT]`."

import ast
import io
import json
import sys
import tokenize
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def modules():
    "Every module of the package, without the index that nbdev makes."
    return sorted(p for p in (ROOT / 'snetlib').rglob('*.py') if p.name != '_modidx.py')


def cells():
    "The source of every code cell."
    for page in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        for cell in json.loads(page.read_text(encoding='utf-8'))['cells']:
            if cell['cell_type'] == 'code':
                yield ''.join(cell['source'])


def semicolons(text):
    "How many `;` separate statements."
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return 0  # a cell with a magic command
    return sum(t.type == tokenize.OP and t.string == ';' for t in tokens)


def packed(texts):
    "Lines of code, the share longer than 110 characters, and `;` per 100 lines."
    texts = list(texts)
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    long = sum(len(line) > 110 for line in lines)
    marks = sum(map(semicolons, texts))
    per_hundred = 100 / len(lines)
    return f'{len(lines)} lines, longer than 110: {long * per_hundred:.1f} %, ; {marks * per_hundred:.1f}'


def trees():
    "(name, syntax tree) of every module."
    for path in modules():
        yield str(path.relative_to(ROOT / 'snetlib')), ast.parse(path.read_text(encoding='utf-8'))


def public(tree):
    "How many public functions and classes a module has."
    named = (*FUNCTIONS, ast.ClassDef)
    return sum(isinstance(n, named) and not n.name.startswith('_') for n in tree.body)


def signatures():
    "(parameters, where) of every function, the longest first."
    found = []
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                a = node.args
                found.append((len(a.posonlyargs + a.args + a.kwonlyargs), f'{name}:{node.name}'))
    return sorted(found, reverse=True)


def arrows():
    "How many pairs (module, module of ours that it imports from) there are."
    pairs = set()
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                ours = node.level or (node.module or '').startswith('snetlib')
                if ours:
                    pairs.add((name, node.level, node.module))
    return len(pairs)


if __name__ == '__main__':
    scripts = [*(ROOT / 'tests').rglob('*.py'), *(ROOT / '.ci').glob('*.py')]
    print('package:', packed(p.read_text(encoding='utf-8') for p in modules()))
    print('pages:', packed(cells()))
    print('tests and scripts:', packed(p.read_text(encoding='utf-8') for p in scripts))
    print('longest signatures:', *(f'{n} {where}' for n, where in signatures()[:6]))
    counts = sorted(((public(tree), name) for name, tree in trees()), reverse=True)
    print('public names:', *(f'{n} {name}' for n, name in counts[:6]), 'median', counts[len(counts) // 2][0])
    print('rooms:', len(counts), 'arrows:', arrows())
    print('README words:', len((ROOT / 'README.md').read_text(encoding='utf-8').split()))
