"Errors carry one sentence, whoever passes them on."

import pickle

from fastai.callback.core import Callback

from snetlib.core import BadSetting


class Refuses(Callback):
    def before_fit(self):
        raise BadSetting('one sentence', key='lr')


def test_a_sentence_stays_as_it_was_said():
    "fastai puts the callback's name before the words of what it raises."
    try:
        Refuses()('before_fit')
    except BadSetting as e:
        assert str(e) == 'one sentence'
        assert e.key == 'lr'


def test_an_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(BadSetting('one sentence', key='lr')))
    assert (str(error), error.key) == ('one sentence', 'lr')
