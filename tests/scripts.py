"The scripts of .ci as modules."

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def script(name):
    "A script of .ci by its name: script('path') is .ci/path.py."
    spec = importlib.util.spec_from_file_location(f'ci_{name}', ROOT / f'.ci/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
