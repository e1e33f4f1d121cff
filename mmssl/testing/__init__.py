"""Laws that every modality keeps, and small models and batches to try things on: for plug-ins as for mmssl's own tests.

    from mmssl.testing import LAWS

    @pytest.mark.parametrize("law", LAWS)
    def test_law(law: str) -> None:
        LAWS[law]("my_modality")

`small_model`, `batch_of` and `objective_of` give something to try a part on.
"""

from mmssl.testing.modalities import LAWS as LAWS
from mmssl.testing.modalities import hidden_content_is_not_used as hidden_content_is_not_used
from mmssl.testing.small import SAMPLES as SAMPLES
from mmssl.testing.small import SMALL as SMALL
from mmssl.testing.small import batch_of as batch_of
from mmssl.testing.small import inputs_of as inputs_of
from mmssl.testing.small import objective_of as objective_of
from mmssl.testing.small import small_model as small_model
from mmssl.testing.small import small_processor as small_processor
