"What a line of code should not do, found in its syntax tree. The rules stand in CONTRIBUTING.md."

import ast
import io
import re
import tokenize

LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
DRAIN = ('all', 'any', 'deque', 'list', 'set', 'sum', 'tuple')  # calls that run a generator to its end


def name_of(node):
    "The last part of a name or attribute: 'search' for re.search; '' for anything else."
    return getattr(node, 'id', getattr(node, 'attr', ''))


# ---- a statement that packs a second thought


def is_conditional_value(node):
    "Whether a conditional expression holds another one in a branch or in its test."
    if not isinstance(node, ast.IfExp):
        return False
    parts = (node.test, node.body, node.orelse)
    return any(isinstance(n, ast.IfExp) for part in parts for n in ast.walk(part))


def runs_a_loop(value):
    "Whether an expression is a comprehension, or a call that only runs one: `list(f(x) for x in y)`."
    if isinstance(value, ast.Call) and name_of(value.func) in DRAIN and value.args:
        inner = value.args[0]
        return isinstance(inner, LOOPS) or isinstance(inner, ast.Call) and name_of(inner.func) == 'map'
    return isinstance(value, LOOPS)


def thrown_away(node):
    "The expression of a statement whose value nobody keeps: a bare one, or one given the name `_`."
    if isinstance(node, ast.Expr):
        return node.value
    if isinstance(node, ast.Assign) and [name_of(t) for t in node.targets] == ['_']:
        return node.value
    return None


def packed(tree, shown=None):
    "(line, what) for each packed statement; `shown` is the statement whose value a cell shows."
    for node in ast.walk(tree):
        if is_conditional_value(node):
            yield node.lineno, 'a conditional inside a conditional'
        value = thrown_away(node)
        if value is None or node is shown:
            continue
        if runs_a_loop(value):
            yield node.lineno, 'a comprehension run for its effect'
        if isinstance(value, ast.BoolOp):
            yield node.lineno, '`x and f()` or `x or f()` as a statement'
        if isinstance(value, ast.IfExp):
            yield node.lineno, '`f() if x else g()` as a statement'


def shown_statement(tree, outputs):
    "The last statement of a cell if the cell shows its value, otherwise None."
    values = [out for out in outputs if out['output_type'] == 'execute_result']
    told = values and set(re.findall(r'\w+', str(values[-1]['data'].get('text/plain')))) - {'None'}
    return tree.body[-1] if told and tree.body else None


def semicolons(text):
    "Lines with a `;` between or after statements."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [t.start[0] for t in tokens if t.type == tokenize.OP and t.string == ';']


# ---- a decision on the words of a message

MESSAGES = ('args', 'message', 'reason', 'sentence', 'strerror', 'why')  # fields that hold sentences
SEARCHES = ('count', 'endswith', 'find', 'findall', 'fullmatch', 'index', 'match', 'search', 'startswith')


def is_words(node, errors, worded):
    "Whether an expression is the text of an error, or a field or variable that holds a sentence."
    if isinstance(node, ast.Name):
        return node.id in worded or node.id in MESSAGES
    if isinstance(node, ast.Attribute):
        return node.attr in MESSAGES
    if isinstance(node, ast.Subscript):
        key = getattr(node.slice, 'value', None)
        return key in MESSAGES or is_words(node.value, errors, worded)
    if isinstance(node, ast.JoinedStr):
        fields = [n.value for n in node.values if isinstance(n, ast.FormattedValue)]
        return any(is_error(f, errors) or is_words(f, errors, worded) for f in fields)
    if isinstance(node, ast.Call):
        if name_of(node.func) in ('str', 'repr', 'format_exc') and len(node.args) <= 1:
            return not node.args or is_error(node.args[0], errors)
        method = isinstance(node.func, ast.Attribute) and name_of(node.func) not in SEARCHES
        return method and is_words(node.func.value, errors, worded)
    return False


def is_error(node, errors):
    "Whether an expression is a caught error, by the name it was caught under or by its cause."
    return name_of(node) in errors or name_of(node) in ('__cause__', '__context__')


def errors_of(scope):
    "Names under which a function catches errors, and its parameters annotated as errors."
    caught = {n.name for n in ast.walk(scope) if isinstance(n, ast.ExceptHandler) and n.name}
    hints = [a for a in ast.walk(scope) if isinstance(a, ast.arg) and a.annotation]
    typed = {a.arg for a in hints if name_of(a.annotation).endswith(('Error', 'Exception'))}
    return caught | typed | {'e', 'err', 'error', 'exc', 'exception'}


def steered_by_words(tree):
    "(line, what) where the words of a message decide: a search, a comparison or a number read from it."
    errors, worded = errors_of(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and is_words(node.value, errors, worded):
            worded |= {name_of(t) for t in node.targets}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = [s for s in sides if not (isinstance(s, ast.Constant) and s.value in ('', None))]
            if len(texts) > 1 and any(is_words(s, errors, worded) for s in sides):
                yield node.lineno, 'compares or searches the words of a message'
        if isinstance(node, ast.Call):
            subjects = [*node.args, getattr(node.func, 'value', None)]
            words = any(is_words(s, errors, worded) for s in subjects)
            if words and name_of(node.func) in SEARCHES:
                yield node.lineno, 'searches the words of a message'
            if words and name_of(node.func) in ('float', 'int'):
                yield node.lineno, 'reads a number out of a message'


# ---- what lies above


def texts(tree):
    "Every constant text of a module, with its line."
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def named_flags(tree, flags):
    "(line, text) of the texts that name a flag of the command line, also within a docstring."
    names = '|'.join(re.escape(f) for f in sorted(flags, key=len, reverse=True))
    flag = re.compile(rf'(?<![\w-])({names})(?![\w-])')
    return [(line, text) for line, text in texts(tree) if flag.search(text)]


def started_by_name(tree):
    "Modules of snetlib that a text names or a call starts by name: an arrow that no import shows."
    found = set()
    for _, text in texts(tree):
        if re.fullmatch(r'snetlib(\.\w+)+', text):
            found.add(text.removeprefix('snetlib.'))
        found |= set(re.findall(r'(?:^|[;\n])\s*(?:import|from) snetlib\.(\w+(?:\.\w+)*)', text))
        found |= set(re.findall(r'-m snetlib\.(\w+(?:\.\w+)*)', text))
    return found


def is_patched(node):
    "Whether a function is a method of some class: one under fastcore's `patch`."
    marks = [d.func if isinstance(d, ast.Call) else d for d in getattr(node, 'decorator_list', [])]
    return any(isinstance(m, ast.Name) and m.id == 'patch' for m in marks)


def public_names(tree):
    "Public functions, classes and constants that a module defines at its top."
    for node in tree.body:
        if is_patched(node):
            continue
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            stored = [n for t in node.targets for n in ast.walk(t)]
            names = [n.id for n in stored if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        elif isinstance(node, ast.AnnAssign):
            names = [name_of(node.target)]
        else:
            continue
        yield from (n for n in names if not n.startswith('_'))
