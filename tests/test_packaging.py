"What a package owes to those who install it: types, extras, files for other systems and for a forge."

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from processes import hide, refused, snet

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = configparser.ConfigParser(interpolation=None, delimiters=['='])
SETTINGS.read(ROOT / 'settings.ini', encoding='utf-8')
SETTINGS = SETTINGS['DEFAULT']


def program(name):
    "A program beside this Python; the test skips where it is not installed."
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f'{name} is not installed; it is in the extra dev')
    return found


# ---- types

ACCEPTED = """
from pathlib import Path

import numpy as np
from snetlib.data import Case, Source, read_image, read_mask, scale_intensity, slice_dls, write_mask
from snetlib.models import SNet, SoSegFormer, create_model, list_models
from snetlib.predict import Predictor, find_images, predict_volume
from snetlib.scores import bootstrap_ci, compare, dice_per_class, hd95, score_case, summarise
from snetlib.train import Run, SNetLoss, fit_recipe, get_recipe, snet_learner, train_run

net = create_model('snet_tiny', c_in=1, n_out=3, fusion='stagger')
own = SNet(c_in=1, n_out=3, fusion='unstagger', supervise='both')
small = SoSegFormer(c_in=1, n_out=2, attention='mhsa')
names: list[str] = list_models('snet_*')
volume = np.zeros((2, 64, 64))
labels: np.ndarray = predict_volume(net.eval(), volume, tile=64, bs=4)
source = Source('folder', Path('ready'), val=2, cache=Path('cache'))
train, valid = source.slices('train', 64), source.slices('valid', (64, 64))
learn = snet_learner(slice_dls(train, valid, bs=4), 'snet_tiny', 'cpu_small')
fit_recipe(learn)
train_run('runs/first', source, 'snet_tiny', 'cpu_small', epochs=3)
run = Run('runs/first')
predictor = Predictor(run, tile=256, mirror=True)
mask: np.ndarray = predictor.array(volume)
for done in predictor.files(find_images(['scans']), 'masks'):
    print(done.case, done.amounts)
case: Case = read_image('scan.nii.gz')
scaled = scale_intensity(case.image, dict(kind='percentile', lo=0.5, hi=99.5))
write_mask(mask, 'scan.nii.gz', Path('mask.nii.gz'))
table = score_case(mask, labels, 3, case.spacing, ('background', 'a', 'b'), case='one')
print(dice_per_class(mask, labels, 3), hd95(mask > 0, labels > 0), summarise(table))
print(bootstrap_ci(np.arange(5.0)), compare, get_recipe('snet'), SNetLoss(), read_mask)
"""

WRONG = """
from snetlib.data import Source, read_image
from snetlib.models import SNet, create_model, list_models
from snetlib.predict import Predictor
from snetlib.scores import bootstrap_ci
from snetlib.train import Run, train_run

create_model(3)
list_models(pattern=3)
SNet(c_in='one', n_out=2)
Run(5)
Predictor(Run('runs/first'), bs='many')
Predictor(Run('runs/first')).arrays
Source('mni', seed='first')
train_run('runs/first', seed='first')
read_image('a.png').imag
"""
MYPY = """[mypy]
follow_imports = skip
ignore_missing_imports = True
[mypy-snetlib.*]
follow_imports = silent
"""


@pytest.fixture(scope='module')
def mistakes(tmp_path_factory):
    "{script: lines in which a type checker finds a mistake}. Other packages count as unknown."
    folder, checker = tmp_path_factory.mktemp('types'), program('mypy')
    for name, text in (('mypy.ini', MYPY), ('right.py', ACCEPTED), ('wrong.py', WRONG)):
        (folder / name).write_text(text)
    command = [checker, '--config-file', 'mypy.ini', '--cache-dir', 'cache', 'right.py', 'wrong.py']
    env = {'MYPYPATH': str(ROOT), 'PATH': ''}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    found = re.findall(r'(right|wrong)\.py:(\d+): error: (.*)', done.stdout)
    return {
        script: {int(n): said for name, n, said in found if name == script} for script in ('right', 'wrong')
    }


def test_a_script_with_the_public_names_is_typed(mistakes):
    assert not mistakes['right']


def test_mistakes_in_calls_are_seen_before_they_run(mistakes):
    "So the names are no blanks to the checker."
    calls = enumerate(WRONG.splitlines(), 1)
    wrong = {n for n, line in calls if line and 'import' not in line}
    assert set(mistakes['wrong']) == wrong


# ---- extras


def requirements(extra):
    names = SETTINGS[f'{extra}_requirements'].split()
    return {re.match(r'[A-Za-z0-9_.-]+', name)[0].lower() for name in names}


def test_the_extras_bring_what_their_names_say():
    assert requirements('baselines') == {'monai', 'segmentation-models-pytorch'}
    assert {'simpleitk', 'highdicom', 'pydicom'} <= requirements('clinic')
    assert {'onnx', 'onnxruntime', 'openvino'} <= requirements('export')
    assert {'sphinx', 'myst-nb'} <= requirements('docs') and 'pytest' in requirements('dev')
    everywhere = {name for key in SETTINGS if key.endswith('_requirements') for name in [key]}
    named = set()
    for f in (ROOT / 'snetlib').rglob('*.py'):
        for call in ast.walk(ast.parse(f.read_text(encoding='utf-8'))):
            is_need = isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'need'
            if is_need and len(call.args) == 2 and isinstance(call.args[1], ast.Constant):
                named.add(call.args[1].value)
    assert named and {f'{extra}_requirements' for extra in named} <= everywhere


SMOKE = '--recipe smoke --set size=32 --set epochs=1'.split()


@pytest.mark.parametrize(
    'package, extra, words',
    [
        ('monai', 'baselines', ['demo', '--seconds', '1', '--out', 'OUT']),
        ('monai', 'baselines', ['train', 'mni', '--model', 'unet_tiny', *SMOKE, '--out', 'OUT']),
        ('tensorboard', 'tensorboard', ['train', 'mni', '--tensorboard', *SMOKE, '--out', 'OUT']),
        ('voila', 'view', ['view', 'SCAN', '--no-browser']),
        ('onnx', 'export', ['export', 'mni-weights', '--to', 'onnx', '--out', 'OUT']),
        ('openvino', 'openvino', ['export', 'mni-weights', '--to', 'openvino', '--out', 'OUT']),
        (
            'highdicom',
            'dicom',
            ['predict', 'mni-weights', 'SCAN', '--dicom-seg', '--out', 'OUT'],
        ),
    ],
)
def test_a_missing_package_is_said_before_the_work(package, extra, words, tmp_path):
    places = {'OUT': tmp_path / 'out', 'SCAN': ROOT / 'nbs/images/demo.png'}
    done = snet(*(places.get(word, word) for word in words), first=partial(hide, package))
    refused(done, package, f'snetlib[{extra}]')
    left = [f for f in (tmp_path / 'out').rglob('*') if f.is_file() and f.name[0] != '.']
    assert not left and 'epoch' not in done.stderr


# ---- other systems

UNIX = {'fcntl', 'termios', 'pwd', 'grp', 'resource', 'pty', 'tty', 'syslog', 'posix'}


def test_nothing_is_imported_that_windows_lacks():
    found = []
    for f in [*(ROOT / 'snetlib').rglob('*.py'), *(ROOT / '.ci').glob('*.py'), ROOT / 'make.py']:
        for node in ast.walk(ast.parse(f.read_text(encoding='utf-8'))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
            found += [(f.name, name) for name in names if name.split('.')[0] in UNIX]
    assert not found


# ---- files of the forge


def schema(name, *files):
    "Check files against a schema that check-jsonschema brings along."
    command = [program('check-jsonschema'), '--builtin-schema', f'vendor.{name}', *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_issue_forms_and_the_citation_follow_their_schemas(tmp_path):
    github = ROOT / '.github'
    schema('github-workflows', *(github / 'workflows').glob('*.yml'))
    forms = [f for f in (github / 'ISSUE_TEMPLATE').glob('*.yml') if f.name != 'config.yml']
    schema('github-issue-forms', *forms)
    schema('github-issue-config', github / 'ISSUE_TEMPLATE/config.yml')
    schema('citation-file-format', ROOT / 'CITATION.cff')
    broken = tmp_path / 'broken.yml'
    broken.write_text('name: x\non: push\njobs:\n  a:\n    steps: []\n')
    with pytest.raises(AssertionError):
        schema('github-workflows', broken)


def test_the_dockerfile_is_linted(tmp_path):
    linter = program('hadolint')
    done = subprocess.run([linter, ROOT / 'Dockerfile'], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout
    (tmp_path / 'Dockerfile').write_text('FROM python\nRUN cd /srv && sudo ls\n')
    done = subprocess.run([linter, tmp_path / 'Dockerfile'], capture_output=True, text=True)
    assert done.returncode, 'the linter finds what is wrong'


def test_workflows_and_containers_name_recipes_and_files_that_exist():
    recipes = subprocess.check_output([sys.executable, ROOT / 'make.py'], text=True)
    recipes = {line.split()[0] for line in recipes.splitlines()}
    texts = [f.read_text() for f in (ROOT / '.github/workflows').glob('*.yml')]
    texts.append((ROOT / 'Dockerfile').read_text())
    used = {w for t in texts for run in re.findall(r'\bmake ([a-z -]+)', t) for w in run.split()}
    assert used and used - recipes <= {'rm', 'no'}, used - recipes
    for path in re.findall(r'python (\.ci/\S+\.py)', ' '.join(texts)):
        assert (ROOT / path).is_file()
    container = json.loads((ROOT / '.devcontainer/devcontainer.json').read_text())
    assert (ROOT / '.devcontainer' / container['build']['dockerfile']).resolve().is_file()


def test_the_archive_holds_what_building_needs():
    manifest = (ROOT / 'MANIFEST.in').read_text()
    assert all(name in manifest for name in ('settings.ini', 'LICENSE', 'README.md', 'py.typed'))
    assert (ROOT / 'snetlib/py.typed').is_file()
