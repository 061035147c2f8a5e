"Render nbs/index.ipynb to README.md: prose as it is, code as code, text and Markdown outputs below it."

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def output_text(out):
    "One output of a cell as Markdown; figures are left to the notebook."

    def text(o):
        return ''.join(o) if isinstance(o, list) else o

    if out['output_type'] == 'stream':
        return f"```text\n{text(out['text']).rstrip()}\n```\n"
    data = out.get('data', {})
    if 'text/markdown' in data:
        return text(data['text/markdown']).rstrip() + '\n'
    if 'text/plain' in data and 'image/png' not in data:
        return f"```text\n{text(data['text/plain']).rstrip()}\n```\n"
    return ''


def cell_text(cell):
    "One cell as Markdown. `#| hide` hides a cell, `#| echo: false` its code."
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
        return source.rstrip() + '\n'
    if re.search(r'^#\|\s*hide\b', source, re.M):
        return ''
    hidden = re.search(r'^#\|\s*echo:\s*false', source, re.M)
    lines = [line for line in source.splitlines() if not line.startswith('#|')]
    code = '' if hidden else '```python\n' + '\n'.join(lines) + '\n```\n'
    return '\n'.join(filter(None, [code, *map(output_text, cell['outputs'])]))


def render():
    "README.md's text: links are relative to nbs/ in the notebook and to the root in the README."
    nb = json.loads((ROOT / 'nbs/index.ipynb').read_text(encoding='utf-8'))
    text = '\n'.join(filter(None, map(cell_text, nb['cells'])))
    text = re.sub(r'(\]\(|src=")(?!https?:|#|\.\./)', r'\1nbs/', text)
    text = re.sub(r'(\]\(|src=")\.\./', r'\1', text)
    return '<!-- Rendered from nbs/index.ipynb by `make readme`: edit there. -->\n\n' + text


if __name__ == '__main__':
    (ROOT / 'README.md').write_text(render(), encoding='utf-8')
