import gc

import pytest

from onehead_cli.runtime.collector import collector_off


def test_the_collector_is_put_back_as_it_was():
    assert gc.isenabled()
    with pytest.raises(ValueError), collector_off():
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
