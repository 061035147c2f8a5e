"The lowest versions that settings.ini allows, as constraints for pip; --tests: what is run with them."

import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOR_USERS = ('requirements', 'baselines_requirements', 'clinic_requirements')
TESTS = """core data_formats data_files data_prepare data_transforms data_sets evaluate trust
models_snet models_sosegformer models_layers models_registry train_run train_learner train_losses
predict_predictor predict_tiles scores_overlap scores_statistics report cli"""


def lowest():
    "name==version of every requirement of users. Raises `ValueError` for one without a lower end."
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / 'settings.ini', encoding='utf-8')
    found = {}
    for key in FOR_USERS:
        for text in settings['DEFAULT'][key].split():
            low = re.match(r'([A-Za-z0-9_.-]+?)>=([0-9.]+)', text)
            if not low:
                raise ValueError(f'{text} in settings.ini has no lower end; write {text}>=VERSION')
            found[low[1]] = low[2]
    return [f'{name}=={version}' for name, version in found.items()]


def main():
    if sys.argv[1:] == ['--tests']:
        print(*(f'tests/test_{name}.py' for name in TESTS.split()))
    else:
        print(*lowest(), sep='\n')


if __name__ == '__main__':
    main()
