import pytest
import torch

from facts import facts
from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.devices import require_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_this_machine_has_not_is_refused_and_the_cpu_is_not():
    require_device(torch.device("cpu"))
    with pytest.raises(SettingsError, match=facts("-device cuda", "-device cpu")):
        require_device(torch.device("cuda"))
