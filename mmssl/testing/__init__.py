"""Laws that every modality, objective and target keeps, for other packages as for mmssl's own tests, and small models to try on.

    from mmssl.plugins import installed
    from mmssl.testing import LAWS, OBJECTIVE_LAWS, TARGET_LAWS

    @pytest.mark.parametrize("law", LAWS)
    def test_law(law: str) -> None:
        LAWS[law]("my_modality")

    @pytest.mark.parametrize("name", installed())
    @pytest.mark.parametrize("law", TARGET_LAWS)
    def test_law_of_targets(law: str, name: str) -> None:
        TARGET_LAWS[law](MyTarget, name)

A law of modalities takes the name of an installed one. Those of objectives and targets take what makes one, a class or a function
(of an objective: from model and setup), and the name of a modality. Each raises AssertionError with what it found.
`small_model`, `batch_of` and `objective_of` give something to try a part on.
"""

from mmssl.testing.modalities import LAWS as LAWS
from mmssl.testing.modalities import hidden_content_is_not_used as hidden_content_is_not_used
from mmssl.testing.parts import OBJECTIVE_LAWS as OBJECTIVE_LAWS
from mmssl.testing.parts import TARGET_LAWS as TARGET_LAWS
from mmssl.testing.small import SAMPLES as SAMPLES
from mmssl.testing.small import SINGLE as SINGLE
from mmssl.testing.small import SMALL as SMALL
from mmssl.testing.small import batch_of as batch_of
from mmssl.testing.small import inputs_of as inputs_of
from mmssl.testing.small import objective_of as objective_of
from mmssl.testing.small import small_model as small_model
from mmssl.testing.small import small_processor as small_processor
